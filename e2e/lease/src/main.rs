//! The lease at length, on a real PostgreSQL.
//!
//! * Random schedules of faults: contenders are processes of their own, and whatever happens to them, to the way to the database
//!   and to the database itself, the oracle holds and somebody leads again in time ([`run`]).
//! * Disturbances that are no reason to replace a leader ([`alarms`]).
//! * What the lease costs the database ([`burden`]).

mod alarms;
mod burden;
mod contender;
mod lane;
mod network;
mod orders;
mod plan;
mod report;
mod run;
mod schedule;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The lease at length, on a real PostgreSQL: under faults, under disturbances, and what it costs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run schedules; the last line is one JSON object
    Schedules(run::Told),
    /// Print the sums of all runs that are in a file
    Summary {
        /// The file
        #[arg(long)]
        report: PathBuf,
    },
    /// Count the leaders that are deposed though they are alive; the last line is one JSON object
    Alarms(alarms::Told),
    /// Measure what the lease costs the database; the last line is one JSON object
    Burden(burden::Told),
    /// One lane, started by `schedules`
    #[command(hide = true)]
    Lane(lane::Told),
    /// One contender, started by a lane or by `alarms`
    #[command(hide = true)]
    Contender(contender::Told),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Schedules(told) => run::schedules(told).await,
        Command::Summary { report } => report::summary(&report).map(|text| println!("{text}")),
        Command::Alarms(told) => alarms::alarms(told).await,
        Command::Burden(told) => burden::burden(told).await,
        Command::Lane(told) => lane::serve(told).await,
        Command::Contender(told) => contender::contend(told).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
