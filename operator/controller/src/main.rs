//! `pollux-controller`: turns TelegramBots into Deployments, and tells in their status who leads.
//!
//! A reconcile is `observe → validate → plan → build → apply → status`, a module each. Around it: `run` (the process),
//! `election` (which replica reconciles), `leases` (what the lease databases say), `cluster` (the Kubernetes API with
//! deadlines), `rbac` (what all of this may do).

mod apply;
mod build;
mod cluster;
mod diagnose;
mod election;
mod events;
mod grant;
mod guard;
mod handover;
mod leases;
mod merge;
mod metrics;
mod migration;
mod observe;
mod plan;
mod rbac;
mod reconcile;
mod release;
mod reports;
mod revision;
mod rollout;
mod run;
mod same;
mod serve;
mod settings;
mod status;
mod template;
mod validate;

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod pipeline_test;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The controller of Pollux: runs Telegram bots on Kubernetes, and updates them without losing or doubling a message.
#[derive(Parser)]
#[command(name = "pollux-controller", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile TelegramBots until SIGTERM
    Run(Box<settings::RunArgs>),
    /// Print the CustomResourceDefinition as YAML
    Crd,
    /// Print the roles that the controller needs as YAML
    Rbac,
    /// Make database credentials for the agents of namespaces
    Grant(Box<grant::GrantArgs>),
    /// Take the lease from a bot's leader that holds on though it should not
    Release(Box<release::ReleaseArgs>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Crd => {
            print!("{}", pollux_api::manifest::crd_yaml());
            Ok(())
        }
        Command::Rbac => {
            print!("{}", rbac::yaml());
            Ok(())
        }
        Command::Run(args) => settings::Settings::new(*args).and_then(|settings| in_runtime(run::run(settings))),
        Command::Grant(args) => in_runtime(grant::run(*args)),
        Command::Release(args) => in_runtime(release::run(*args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pollux-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is logged unless POLLUX_LOG says otherwise. The client logs every answer that is not 200 as an error of its own; what
/// of that is a failure is reported where it is known.
const LOG: &str = "info,kube_client::client::builder=off,refinery_core=warn";

/// Everything that talks to others: logs, TLS, runtime.
fn in_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("POLLUX_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init()
    } else {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
    }
    // ring is the only provider in the tree; named all the same, so that a second one would not make the client panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A panic in any task would leave a process that looks alive and does half of its work.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "pollux-controller ends because of a panic");
        std::process::exit(101);
    }));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
