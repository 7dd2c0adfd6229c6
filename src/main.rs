//! The `dht-prometheus` program.

use std::process::ExitCode;

use mimalloc::MiMalloc;

mod cli;

/// Keeps the pages of large buffers. The system's allocator gives those of each scraped body back and
/// faults them in again for the next one, which can cost more than all the rest of a scrape.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
