//! The `stentor` program.

use std::process::ExitCode;

use clap::Parser;
use stentor::cli::{Cli, exit_code, explain, out, run};

/// Keeps freed pages: the engines allocate the same large buffers at every step, and faulting fresh pages
/// for them took a fifth of a forward pass with the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::note(&format!("stentor: {}", explain(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}
