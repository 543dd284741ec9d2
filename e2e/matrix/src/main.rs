//! Real bots of real libraries, as processes, between an emulator of the Bot API and their agents: every library in every
//! scenario, without a cluster.
//!
//! A *cell* is a library in a scenario, through a gate or (as the baseline) directly. The emulator's ledger of every update is
//! the judge.

mod ground;
mod promise;
mod report;
mod run;
mod scenarios;
mod setups;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::ground::Mode;
use crate::report::Summary;
use crate::run::Wanted;
use crate::scenarios::Scenario;

#[derive(Parser)]
#[command(about = "Real bots of real libraries in every scenario; the last line is one JSON object")]
#[command(after_help = "Try one cell:\n  pollux-matrix --bots grammy --modes gate --scenarios roll --rolls 2\n\
                        The bots have to be installed: e2e/bots/install.sh")]
struct Cli {
    /// Bots of e2e/bots/bots.json; all of them unless named
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    bots: Vec<String>,
    /// Scenarios, such as roll or postgres-away; all of them unless named
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    scenarios: Vec<String>,
    /// What is between the bot and the Bot API
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Modes::Gate, Modes::Settled, Modes::Direct])]
    modes: Vec<Modes>,
    /// How often a bot is rolled through the gate; a crash and the rolls of the other modes are a seventh of it
    #[arg(long, default_value_t = 20)]
    rolls: u32,
    /// How many cells run side by side
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// What the loads are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the table into this page
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Every row as a line of JSON; cells that are in it already are not run again
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Modes {
    Direct,
    Gate,
    Settled,
}

#[tokio::main]
async fn main() -> ExitCode {
    match matrix(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn matrix(cli: Cli) -> Result<()> {
    let setups = setups::read(&cli.bots)?;
    for name in &cli.scenarios {
        let names: Vec<String> = scenarios::ALL.iter().map(|scenario| scenario.name()).collect();
        ensure!(names.contains(name), "there is no scenario {name}; there are {}", names.join(", "));
    }
    let asked = |scenario: &Scenario| cli.scenarios.is_empty() || cli.scenarios.contains(&scenario.name());
    let wanted = Wanted {
        modes: cli.modes.iter().map(|mode| (*mode).into()).collect(),
        scenarios: scenarios::ALL.into_iter().filter(asked).collect(),
        rolls: cli.rolls.max(1),
        lanes: cli.lanes.max(1),
        seed: cli.seed,
    };
    let cells = run::cells(&setups, &wanted);
    println!("{} cells of {} bots, {} lanes, seed {}", cells.len(), setups.len(), wanted.lanes, wanted.seed);
    let rows = run::run(cells, &wanted, cli.rows.as_deref()).await?;
    if let Some(page) = &cli.table {
        report::write_table(page, &setups, &rows)?;
    }
    let summary = Summary::of(&rows, setups.len());
    let broken: std::collections::BTreeSet<_> =
        rows.iter().filter(|r| !r.broken.is_empty()).map(|r| (&r.bot, r.mode, r.scenario)).collect();
    println!("matrix: {} passed, {} failed", rows.len() - broken.len(), broken.len());
    println!("{}", serde_json::to_string(&summary)?);
    ensure!(summary.failed.is_empty(), "{} findings; they are in the last line under `failed`", summary.failed.len());
    Ok(())
}

impl From<Modes> for Mode {
    fn from(mode: Modes) -> Self {
        match mode {
            Modes::Direct => Self::Direct,
            Modes::Gate => Self::Gate,
            Modes::Settled => Self::Settled,
        }
    }
}
