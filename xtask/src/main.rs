//! `cargo xtask`: installs what the project's checks and comparisons need, then runs them.
//!
//! Each step is a command that is printed before it runs; the first that fails ends the run with
//! its exit code.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

mod compare;
mod install;
mod nat;

const HELP: &str = "\
Usage: cargo xtask <COMMAND> [OPTIONS] [-- <ARGUMENTS OF cargo test>]

Commands:
  test     Installs what the tests need and is missing, then runs all of them, those with the Node
           clients and a real Prometheus included
  ci       Formatting, lints, documentation, licences and sources of what is built on, then `test`
  compare  Measures the Node bridge and ours side by side (`cargo xtask compare --help`)
  nat      Measures connections across NATs, Node's and ours side by side (`cargo xtask nat --help`)

Options:
  --no-install   Install nothing; what is missing fails the test that needs it
  -h, --help     Print this help
";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { reason, code }) => {
            eprintln!("xtask: {reason}");
            ExitCode::from(code)
        }
    }
}

/// Why a run ended, and the exit code to pass on.
#[derive(Debug)]
struct Failure {
    reason: String,
    code: u8,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, code: 1 }
    }
}

fn run(mut words: Vec<std::ffi::OsString>) -> Result<(), Failure> {
    let for_cargo = match words.iter().position(|word| word == "--") {
        Some(place) => words.split_off(place).split_off(1),
        None => Vec::new(),
    };
    let mut arguments = pico_args::Arguments::from_vec(words);
    let help = arguments.contains(["-h", "--help"]);
    let install = !arguments.contains("--no-install");
    let command = arguments.subcommand().map_err(|error| usage(&error.to_string()))?;
    let comparison = match command.as_deref() {
        Some("compare") => Some(compare::Options::parse(&mut arguments).map_err(|e| usage(&e))?),
        _ => None,
    };
    let crossing = match command.as_deref() {
        Some("nat") => Some(nat::Options::parse(&mut arguments).map_err(|e| usage(&e))?),
        _ => None,
    };
    let rest = arguments.finish();
    if let Some(unknown) = rest.first() {
        return Err(usage(&format!("unknown argument {}", unknown.display())));
    }
    match (command.as_deref(), comparison, crossing) {
        (_, Some(_), _) if help => print_help(compare::HELP),
        (_, _, Some(_)) if help => print_help(nat::HELP),
        _ if help => print_help(HELP),
        (_, Some(options), _) => return compare::run(&options, install, &root()),
        (_, _, Some(options)) => return nat::run(&options, install, &root()),
        (Some("test"), ..) => return test(install, &for_cargo),
        (Some("ci"), ..) => return ci(install, &for_cargo),
        (Some(other), ..) => return Err(usage(&format!("unknown command {other}"))),
        (None, ..) => return Err(usage("a command is missing")),
    }
    Ok(())
}

fn print_help(text: &str) {
    #[expect(clippy::print_stdout, reason = "the help was asked for")]
    {
        print!("{text}");
    }
}

fn usage(reason: &str) -> Failure {
    Failure { reason: format!("{reason}\n\n{HELP}"), code: 64 }
}

fn ci(install: bool, for_cargo: &[std::ffi::OsString]) -> Result<(), Failure> {
    step(cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked"];
    step(cargo(&[&clippy[..], &["--", "-D", "warnings"]].concat()))?;
    let mut docs = cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--locked"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step(docs)?;
    deny(install)?;
    test(install, for_cargo)
}

/// Holds what we build on to `deny.toml`. Advisories count where their database can be reached.
fn deny(install: bool) -> Result<(), Failure> {
    let folder = install::cargo_deny(&root(), install)?;
    let path = match &folder {
        Some(folder) => install::path_with(folder)?,
        None => std::env::var_os("PATH").unwrap_or_default(),
    };
    let deny = |args: &[&str]| {
        let mut deny = cargo(&[&["deny"], args].concat());
        deny.env("PATH", &path);
        deny
    };
    step(deny(&["check", "licenses", "bans", "sources"]))?;
    if step(deny(&["fetch", "db"])).is_err() {
        eprintln!("xtask: NOT RUN: cargo deny check advisories (their database is out of reach)");
        return Ok(());
    }
    step(deny(&["check", "advisories"]))
}

fn test(install: bool, for_cargo: &[std::ffi::OsString]) -> Result<(), Failure> {
    let tools = if install { install::missing(&root())? } else { install::present(&root()) };
    if install {
        install::lab();
    }
    let mut tests = cargo(&["test", "--workspace", "--locked"]);
    tests.args(for_cargo).env("DHT_PROM_INTEROP", "1").env("HYPERDHT_INTEROP", "1");
    if let Some(folder) = tools {
        tests.env("PATH", install::path_with(&folder)?);
    }
    step(tests)
}

/// Prints a command, runs it in the workspace, and fails as it does.
fn step(mut command: Command) -> Result<(), Failure> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = words.join(" ");
    eprintln!("xtask: {line}");
    let status = command.status().map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Failure { reason: format!("`{line}` failed ({status})"), code })
}

fn cargo(args: &[&str]) -> Command {
    // The cargo that runs this program, not another one in PATH.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
