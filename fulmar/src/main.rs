//! The binary `fulmar`: parse, call one function, map its error to an exit code.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
