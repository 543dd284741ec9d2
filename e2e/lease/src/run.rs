//! A run: lanes beside each other, each with one schedule at a time, until there are enough or the time is over.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::future::join_all;
use jiff::Timestamp;
use pollux_postgres::Server;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::network::{can_be_isolated, lane_command};
use crate::plan::{Group, Kind, parse};
use crate::report::{Outcome, Run, Total, commit};

/// What `schedules` is told.
#[derive(Args, Debug)]
pub(crate) struct Told {
    /// How many
    #[arg(long, default_value_t = 30)]
    count: u64,
    /// As many as begin within this time, instead
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60), conflicts_with = "count")]
    minutes: Option<u64>,
    /// How many at a time, each with a PostgreSQL of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    lanes: u8,
    /// The first seed; the others follow it. With `--count 1` it replays a schedule. Without it a run goes on after the last
    /// seed of the report, or begins with 1
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of faults and groups of them: all, process, network, proxy, database, incarnation
    #[arg(long, default_value = "all")]
    faults: String,
    /// A file to which the run adds its sums as a line of JSON
    #[arg(long)]
    report: Option<PathBuf>,
    /// Tell what happened in every schedule, not only in those that failed
    #[arg(long)]
    verbose: bool,
}

/// What all lanes share.
struct Shared {
    next: u64,
    end: End,
    total: Total,
}

#[derive(Clone, Copy)]
enum End {
    Seed(u64),
    At(Instant),
}

pub(crate) async fn schedules(told: Told) -> Result<()> {
    let (kinds, skipped, lane) = prepare(&told)?;
    let first = first_seed(&told)?;
    let end = match told.minutes {
        Some(minutes) => End::At(Instant::now() + Duration::from_secs(60 * minutes)),
        None => End::Seed(first.checked_add(told.count).context("so many seeds there are not")?),
    };
    let shared = Mutex::new(Shared { next: first, end, total: Total::default() });
    let began = Instant::now();
    let ended = join_all((0..told.lanes).map(|_| run_lane(&lane, &shared))).await;
    let Shared { next, total, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(total.schedules > 0, "there was time for no schedule");
    println!("\n{}", total.table());
    let missing: Vec<_> =
        kinds.iter().filter(|kind| !total.faults.contains_key(kind)).map(|kind| kind.word()).collect();
    println!("{} schedules in {} s; kinds that did not occur: {missing:?}", total.schedules, began.elapsed().as_secs());
    let (at, last_seed) = (Timestamp::now(), next - 1);
    let run = Run { at, commit: commit(), first_seed: first, last_seed, kinds, skipped, total };
    if let Some(path) = &told.report {
        run.append(path)?;
    }
    println!("{}", serde_json::to_string(&run.total)?);
    // What the others showed is kept all the same.
    ended.into_iter().collect::<Result<()>>()?;
    ensure!(run.total.failed.is_empty(), "{} of {} schedules failed", run.total.failed.len(), run.total.schedules);
    Ok(())
}

/// What this machine can do: the kinds, those that were to be done and cannot, and how a lane is started.
fn prepare(told: &Told) -> Result<(Vec<Kind>, Vec<Kind>, Lane)> {
    let mut kinds = parse(&told.faults).map_err(anyhow::Error::msg)?;
    let (isolated, shiftable) = (can_be_isolated(), Server::can_be_shifted());
    let possible = |kind: &Kind| match kind {
        kind if kind.shifts() => shiftable.is_ok(),
        kind => kind.group() != Group::Network || isolated.is_ok(),
    };
    let skipped: Vec<_> = kinds.extract_if(.., |kind| !possible(kind)).collect();
    for kind in &skipped {
        let why = if kind.shifts() { &shiftable } else { &isolated };
        println!("SKIPPED {}: {}", kind.word(), why.as_ref().err().map(|e| format!("{e:#}")).unwrap_or_default());
    }
    ensure!(!kinds.is_empty(), "none of these faults is possible here");
    let faults = kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(",");
    let shifts = kinds.iter().any(|kind| kind.shifts());
    Ok((kinds, skipped, Lane { faults, isolated: isolated.is_ok(), shifts, verbose: told.verbose }))
}

fn first_seed(told: &Told) -> Result<u64> {
    if let Some(seed) = told.seed {
        return Ok(seed);
    }
    let runs = told.report.as_deref().map(Run::all).transpose()?.unwrap_or_default();
    Ok(runs.iter().map(|run| run.last_seed).max().map_or(1, |last| last + 1))
}

/// How a lane is started.
struct Lane {
    faults: String,
    isolated: bool,
    shifts: bool,
    verbose: bool,
}

async fn run_lane(lane: &Lane, shared: &Mutex<Shared>) -> Result<()> {
    let mut command = tokio::process::Command::from(lane_command(&std::env::current_exe()?, lane.isolated));
    command.args(["lane", "--faults", &lane.faults]);
    command.args(lane.isolated.then_some("--isolated")).args(lane.shifts.then_some("--shiftable"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut asks = child.stdin.take().context("no standard input")?;
    let mut answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    while let Some(seed) = locked(shared, Shared::draw) {
        asks.write_all(format!("{seed}\n").as_bytes()).await.context("a lane has ended")?;
        let Some(answer) = answers.next_line().await? else { bail!("a lane has ended in schedule {seed}") };
        let outcome: Outcome = serde_json::from_str(&answer)?;
        println!("{}", outcome.text(lane.verbose));
        if outcome.failure.is_some() {
            println!("again: pollux-lease-soak schedules --count 1 --seed {seed} --faults {}", lane.faults);
        }
        locked(shared, |shared| shared.total.add(&outcome));
    }
    drop(asks);
    ensure!(child.wait().await?.success(), "a lane has failed");
    Ok(())
}

fn locked<T>(shared: &Mutex<Shared>, with: impl FnOnce(&mut Shared) -> T) -> T {
    with(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

// === impl Shared ===

impl Shared {
    fn draw(&mut self) -> Option<u64> {
        let goes_on = match self.end {
            End::Seed(end) => self.next < end,
            End::At(end) => Instant::now() < end,
        };
        let seed = self.next;
        self.next += u64::from(goes_on);
        goes_on.then_some(seed)
    }
}
