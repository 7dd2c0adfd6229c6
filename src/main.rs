//! The `dht-prometheus` program.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
