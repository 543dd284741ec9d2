//! Cells side by side: as many lanes, each with a database of its own, take them from one queue.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::ground::{Figures, Ground, LeaseDatabase, Mode};
use crate::promise::Promise;
use crate::report::{self, Row};
use crate::scenarios::{self, Scenario};
use crate::setups::Setup;

/// No cell may hold up the others for longer, whatever happens in it.
const LONGEST: Duration = Duration::from_secs(25 * 60);

/// One library in one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) setup: Arc<Setup>,
    pub(crate) mode: Mode,
    pub(crate) scenario: Scenario,
    pub(crate) runs: u32,
    /// Its number in the whole matrix, whatever part of it is run: also what its load is made from.
    id: u64,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) modes: Vec<Mode>,
    pub(crate) scenarios: Vec<Scenario>,
    /// Repetitions of a roll through the gate; those of other scenarios follow from it.
    pub(crate) rolls: u32,
    pub(crate) lanes: usize,
    pub(crate) seed: u64,
}

// === impl Cell ===

impl Cell {
    fn is(&self, row: &Row) -> bool {
        (&self.setup.name, self.mode, self.scenario, self.runs) == (&row.bot, row.mode, row.scenario, row.runs)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = format!("{:?}", self.mode).to_lowercase();
        write!(f, "{} {mode} {}", self.setup.name, self.scenario.name())?;
        if self.runs > 1 { write!(f, " x {}", self.runs) } else { Ok(()) }
    }
}

/// Whether a scenario says anything in this mode.
fn fits(mode: Mode, scenario: Scenario) -> bool {
    match mode {
        Mode::Gate => true,
        Mode::Direct => {
            matches!(scenario, Scenario::Roll | Scenario::Crash | Scenario::TwoIdle | Scenario::TwoLoaded)
        }
        Mode::Settled => {
            let deaths = matches!(scenario, Scenario::Roll | Scenario::Crash | Scenario::BotRestart);
            deaths || scenario.is_silent()
        }
    }
}

/// The cells that are asked for, the longest first.
pub(crate) fn cells(setups: &[Setup], wanted: &Wanted) -> VecDeque<Cell> {
    let mut cells = Vec::new();
    for (library, setup) in setups.iter().enumerate() {
        let setup = Arc::new(setup.clone());
        for mode in [Mode::Gate, Mode::Settled, Mode::Direct] {
            for (row, scenario) in scenarios::ALL.into_iter().enumerate() {
                if !fits(mode, scenario) || !wanted.modes.contains(&mode) || !wanted.scenarios.contains(&scenario) {
                    continue;
                }
                let runs = match (mode, scenario) {
                    (Mode::Gate, Scenario::Roll) => wanted.rolls,
                    (_, Scenario::Roll | Scenario::Crash | Scenario::BotRestart) => wanted.rolls.div_ceil(7),
                    _ if scenario.is_silent() => wanted.rolls.div_ceil(7),
                    _ => 1,
                };
                let id = (library * 100 + row) as u64 * 10 + mode as u64;
                cells.push(Cell { setup: setup.clone(), mode, scenario, runs, id });
            }
        }
    }
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.runs));
    cells.into()
}

/// Runs those that are not in `book` yet; each is written there when it is over. All rows, in the order in which they ended.
pub(crate) async fn run(mut cells: VecDeque<Cell>, wanted: &Wanted, book: Option<&Path>) -> Result<Vec<Row>> {
    let total = cells.len();
    let mut known = book.map_or(Ok(Vec::new()), report::read)?;
    known.retain(|row| cells.iter().any(|cell| cell.is(row)));
    cells.retain(|cell| !known.iter().any(|row| cell.is(row)));
    if !known.is_empty() {
        println!("{} cells are in the file already; going on with the other {}", known.len(), cells.len());
    }
    let (queue, rows) = (Arc::new(Mutex::new(cells)), Arc::new(Mutex::new(known)));
    let began = Instant::now();
    let lanes = (0..wanted.lanes.min(total)).map(|_| {
        let (queue, rows, seed, book) = (queue.clone(), rows.clone(), wanted.seed, book.map(Path::to_owned));
        tokio::spawn(async move {
            let database = LeaseDatabase::start().await?;
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(cell) = next else { return Ok::<_, anyhow::Error>(()) };
                let row = judged(&cell, seed, database.clone()).await;
                let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                rows.push(row.clone());
                if let Some(book) = &book {
                    report::append(book, &row)?;
                }
                println!("[{}/{total}, {} s] {}", rows.len(), began.elapsed().as_secs(), row.line(&cell));
            }
        })
    });
    for lane in futures::future::join_all(lanes.collect::<Vec<_>>()).await {
        lane??;
    }
    let rows = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(rows)
}

async fn judged(cell: &Cell, seed: u64, database: LeaseDatabase) -> Row {
    let began = Instant::now();
    let shown = tokio::time::timeout(LONGEST, show(cell, seed, database)).await;
    let shown = shown.unwrap_or_else(|_| Err(anyhow::anyhow!("not over within {LONGEST:?}")));
    let promise = Promise::of(cell.scenario, cell.mode, cell.setup.acks, cell.runs);
    let (figures, broken) = match shown {
        Ok(figures) => (figures.clone(), promise.broken_by(&figures)),
        // Without a gate a bot may well stand still for good: that is its figure.
        Err(error) if cell.mode == Mode::Direct => {
            eprintln!("{cell}: {error:#}");
            (Figures::default(), Vec::new())
        }
        Err(error) => (Figures::default(), vec![format!("{error:#}")]),
    };
    Row {
        bot: cell.setup.name.clone(),
        mode: cell.mode,
        scenario: cell.scenario,
        runs: cell.runs,
        figures,
        seconds: began.elapsed().as_secs(),
        broken,
    }
}

async fn show(cell: &Cell, seed: u64, database: LeaseDatabase) -> Result<Figures> {
    let handler = cell.scenario.handler();
    let seed = seed.wrapping_mul(1_000_003).wrapping_add(cell.id);
    let ground = Ground::new(cell.setup.clone(), cell.mode, handler, cell.id, seed, database).await?;
    if cell.mode == Mode::Settled {
        ground.settings(json!({ "delivery": "Settled" })).await?;
    }
    let figures = cell.scenario.run(&ground, cell.runs).await;
    ground.emulator.shutdown();
    figures
}
