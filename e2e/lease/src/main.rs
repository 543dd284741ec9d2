//! Random schedules of faults of the lease, on a real PostgreSQL: contenders are processes of their own, and whatever happens
//! to them, to the way to the database and to the database itself, the oracle holds and somebody leads again in time.

mod contender;
mod lane;
mod network;
mod orders;
mod plan;
mod report;
mod run;
mod schedule;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Random schedules of faults of the lease, on a real PostgreSQL")]
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
    /// One lane, started by `schedules`
    #[command(hide = true)]
    Lane(lane::Told),
    /// One contender, started by a lane
    #[command(hide = true)]
    Contender(contender::Told),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Schedules(told) => run::schedules(told).await,
        Command::Summary { report } => report::summary(&report).map(|text| println!("{text}")),
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
