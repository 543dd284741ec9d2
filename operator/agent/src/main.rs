//! `pollux-agent`: see the library's documentation for what it does.

use std::process::ExitCode;

use clap::Parser;
use pollux_agent::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => pollux_agent::run::main(&options),
        Command::WaitReady(options) => pollux_agent::ready::main(&options),
        Command::Drain(options) => pollux_agent::hook::client::main(&options),
        Command::Supervise(options) => pollux_agent::supervise::main(&options),
        Command::Execute(options) => pollux_agent::supervise::execute::main(&options),
        Command::Version => {
            println!("pollux-agent {}", pollux_agent::VERSION);
            ExitCode::SUCCESS
        }
    }
}
