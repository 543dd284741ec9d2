//! `make demo` and `make e2e`: real bots on a real cluster, under load, with the ledger as the judge.

mod baseline;
mod bot;
mod demo;
mod emulator;
mod fields;
mod ground;
mod migrations;
mod mistakes;
mod report;
mod requests;
mod scenarios;
mod suite;
mod tls;
mod versions;
mod wait;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::ground::Yours;

/// What a program ends with that was interrupted.
const INTERRUPTED: i32 = 130;

#[derive(Parser)]
#[command(about = "Real bots on a real cluster, under load, with a ledger as the judge")]
struct Cli {
    /// Run on the cluster that this file leads to, in namespaces of our own, and not on one that is started for it
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,

    /// Registry and repository where that cluster's nodes find the images; without it they must have been loaded
    #[arg(long, global = true, requires = "kubeconfig")]
    registry: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bots of three libraries beside the same bots as plain Deployments: a rollout of each, a kill, a drain, a verdict. The cluster stays up
    Demo,
    /// Take away what the demo left
    DemoDown,
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
    let cli = Cli::parse();
    let removal = removal(&cli);
    let ended = tokio::select! {
        ended = run(cli) => ended,
        signalled = interrupted() => match signalled {
            Ok(()) => {
                eprintln!("interrupted; what was started is still there: {removal} removes it, and so does the next run");
                // A cluster that is just being started would be waited for.
                std::process::exit(INTERRUPTED)
            }
            Err(error) => Err(error.into()),
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The command that removes what a run leaves in the middle.
fn removal(cli: &Cli) -> String {
    match (&cli.kubeconfig, &cli.command) {
        (Some(file), _) => format!("make demo-down KUBECONFIG={}", file.display()),
        (None, Command::E2e { .. }) => format!("make cluster-down CLUSTER={}", suite::CLUSTER),
        (None, _) => "make demo-down".to_owned(),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let yours = cli.kubeconfig.map(|file| Yours::named(&file, cli.registry)).transpose()?;
    match cli.command {
        Command::Demo => demo::run(yours).await,
        Command::DemoDown => demo::down(yours).await,
        Command::E2e { only, keep, full } => suite::run(only.as_deref(), keep, full, yours).await,
    }
}
