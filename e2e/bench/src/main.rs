//! `pollux-bench`: the lease side by side with other electors, on the same PostgreSQL, API server and machine, in one run.
//!
//! And the gate beside other proxies ([`gate`]).
//!
//! Every contender is a process of its own, so that it can be killed and frozen, and writes down when it leads by the one
//! clock of the machine. See [`rows`] for what is measured.
//!
//! # The JSON object
//!
//! A duration is `{"p50", "p99", "max", "n"}` in milliseconds with one decimal; where somebody did not lead within `waited`,
//! `never` counts how often, and the percentiles that this reaches are null.
//!
//! * `floor_ms`, `handover_ms`, `handover_over_floor` (p50 and p99 over the floor's p50), `handovers_without_successor`.
//! * `kill_ttl_ms`, `stop_ttl_ms`, `kill_ttl3_ms`, `kill_pooler_ms`, `kill_fast_ms`, `hole_fast_ms`, `kill_fast300_ms`.
//! * `changes_on_restart`: how many leaders changed; `restarts`: of how many, by mode, and the longest time for which nobody led.
//! * `scale_single`, `scale_batched`: lists, by number of agents and of bots; processor times in cores.
//! * `others`: for each other elector `release_ms`, `kill_ms`, `stop_ms`, and `changes_on_restart` if it uses PostgreSQL.
//! * `needless_changes`: leaders that changed though nothing had happened to them; `not_measured`: rows, and why; `run`.

mod contend;
mod contender;
mod elector;
mod figure;
mod gate;
mod handover;
mod lane;
mod plot;
mod report;
mod restart;
mod rows;
mod run;
mod scale;
mod scale_batched;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::contend::Seat;
use crate::rows::{Row, Size};

#[derive(Parser)]
#[command(
    name = "pollux-bench",
    version,
    about = "How long it takes until somebody else leads, and what the gate costs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure; the last line is one JSON object
    Lease {
        /// These rows only
        #[arg(long, value_delimiter = ',', value_name = "ROW,..")]
        only: Vec<Row>,
        /// Few samples, in two minutes: shows that it works, and nothing about speed
        #[arg(long)]
        quick: bool,
        /// Write the JSON object to this file, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Draw the figures into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Measure the gate as a proxy, beside a bare proxy and nginx; the last line is one JSON object
    Gate(gate::Told),
    /// Draw the figures of an earlier run
    Plot {
        /// The JSON object
        json: PathBuf,
        /// The picture
        svg: PathBuf,
    },
    /// Answer calls, or pass them on: what the gate is measured beside
    #[command(hide = true)]
    Serve(gate::Serve),
    /// Take part in an election: what the bench starts, freezes and kills
    #[command(hide = true)]
    Contend {
        #[command(flatten)]
        seat: Seat,
    },
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pollux-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode> {
    match command {
        Command::Contend { seat } => contend::contend(seat).map(|()| ExitCode::SUCCESS),
        Command::Gate(told) => {
            let missed = runtime()?.block_on(gate::bench(&told))?;
            missed.iter().for_each(|missed| eprintln!("{missed}"));
            Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Serve(told) => {
            // As the gate runs; a proxy that hands a call from thread to thread is slower.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(gate::serve(told)).map(|()| ExitCode::SUCCESS)
        }
        Command::Plot { json, svg } => {
            let text = std::fs::read_to_string(&json).with_context(|| format!("cannot read {}", json.display()))?;
            write(&svg, &plot::svg(&serde_json::from_str(&text)?)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Lease { only, quick, json, svg } => {
            let rows = if only.is_empty() { Row::value_variants() } else { &only };
            let size = if quick { Size::Quick } else { Size::Full };
            let (figures, failed) = runtime()?.block_on(run::run(rows, size))?;
            let text = figures.to_string();
            println!("{text}");
            if let Some(path) = json {
                write(&path, &format!("{text}\n"))?;
            }
            if let Some(path) = svg {
                write(&path, &plot::svg(&figures)?)?;
            }
            Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// With threads that live as long as it does: contenders die with the thread that started them.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
