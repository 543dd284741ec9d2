//! `make demo` and `make e2e`: real bots on a real cluster, under load, with the ledger as the judge.

mod baseline;
mod bot;
mod demo;
mod emulator;
mod fields;
mod mistakes;
mod report;
mod scenarios;
mod suite;
mod tls;
mod wait;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Real bots on a real cluster, under load, with a ledger as the judge")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bots of three libraries beside the same bots as plain Deployments: a rollout of each, a kill, a drain, a verdict. The cluster stays up
    Demo,
    /// Every library and every fault once; the last line is one JSON object
    E2e {
        /// Only scenarios whose name contains this
        #[arg(long)]
        only: Option<String>,
        /// Leave the cluster up, for looking at it
        #[arg(long)]
        keep: bool,
        /// Everything five times, and on Kubernetes 1.33 too
        #[arg(long)]
        full: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().ok();
    let outcome = match Cli::parse().command {
        Command::Demo => demo::run().await,
        Command::E2e { only, keep, full } => suite::run(only.as_deref(), keep, full).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
