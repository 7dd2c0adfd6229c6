//! A placeholder so that the interop tests have a package to live in; the bridge replaces it.

fn main() -> std::process::ExitCode {
    eprintln!("this is a placeholder");
    std::process::ExitCode::FAILURE
}
