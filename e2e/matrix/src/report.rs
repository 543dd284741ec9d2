//! What the cells showed: lines while they run, one JSON object at the end, and the table in docs/libraries.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ground::{Figures, Mode};
use crate::run::Cell;
use crate::scenarios::Scenario;
use crate::setups::{Acks, Setup};

const BEGIN: &str = "<!-- begin: written by `make matrix` -->";
const END: &str = "<!-- end -->";

/// A cell that is through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) bot: String,
    pub(crate) mode: Mode,
    pub(crate) scenario: Scenario,
    pub(crate) runs: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) seconds: u64,
    pub(crate) broken: Vec<String>,
}

/// The last line.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    libraries: usize,
    cells: usize,
    gate_roll: Sum,
    settled_crash: Lost,
    /// Of the rolls through the gate: how long nobody polled.
    switch_ms: Switches,
    pub(crate) failed: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Sum {
    runs: u64,
    updates: u64,
    lost: u64,
    dup: u64,
    conflict: u64,
}

#[derive(Debug, Default, Serialize)]
struct Switches {
    n: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Default, Serialize)]
struct Lost {
    runs: u64,
    lost: u64,
}

// === impl Row ===

impl Row {
    pub(crate) fn line(&self, cell: &Cell) -> String {
        let f = &self.figures;
        let mut line = format!(
            "{:6} {cell}: {} updates, {} lost, {} doubled, {} x 409, {} restarts, silent for {:.1} s at most, {} s",
            if self.broken.is_empty() { "ok" } else { "FAILED" },
            f.updates,
            f.lost,
            f.dup,
            f.conflict,
            f.restarts,
            f.longest_silence_ms as f64 / 1000.0,
            self.seconds,
        );
        for broken in &self.broken {
            let _ = write!(line, "\n       {broken}");
        }
        line
    }

    /// LOST, DUP and 409s, as the table shows them.
    fn short(&self) -> String {
        let Figures { lost, dup, conflict, restarts, .. } = self.figures;
        let restarts = if restarts > 0 { format!(" ({restarts} restarts)") } else { String::new() };
        format!("{lost} / {dup} / {conflict}{restarts}")
    }
}

// === impl Summary ===

impl Summary {
    pub(crate) fn of(rows: &[Row], libraries: usize) -> Self {
        let mut summary = Self {
            libraries,
            cells: rows.len(),
            gate_roll: Sum::default(),
            settled_crash: Lost::default(),
            switch_ms: Switches::default(),
            failed: Vec::new(),
        };
        let mut switches = Vec::new();
        for row in rows {
            let name = format!("{} {:?} {}", row.bot, row.mode, row.scenario.name()).to_lowercase();
            summary.failed.extend(row.broken.iter().map(|broken| format!("{name}: {broken}")));
            match (row.mode, row.scenario) {
                (Mode::Gate, Scenario::Roll) => {
                    summary.gate_roll.runs += u64::from(row.runs);
                    summary.gate_roll.updates += row.figures.updates;
                    summary.gate_roll.lost += row.figures.lost;
                    summary.gate_roll.dup += row.figures.dup;
                    summary.gate_roll.conflict += row.figures.conflict;
                    switches.extend(&row.figures.switch_ms);
                }
                (Mode::Settled, Scenario::Crash) => {
                    summary.settled_crash.runs += u64::from(row.runs);
                    summary.settled_crash.lost += row.figures.lost;
                }
                _ => {}
            }
        }
        summary.switch_ms = Switches::of(switches);
        summary
    }
}

// === impl Switches ===

impl Switches {
    fn of(mut took: Vec<f64>) -> Self {
        took.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let rank = (took.len() * percent).div_ceil(100).saturating_sub(1);
            took.get(rank).copied().unwrap_or_default()
        };
        Self { n: took.len(), p50: percentile(50), p99: percentile(99), max: percentile(100) }
    }
}

/// The rows in a file; none if it is not there.
pub(crate) fn read(book: &Path) -> Result<Vec<Row>> {
    let text = match std::fs::read_to_string(book) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| book.display().to_string())?,
    };
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", book.display()))).collect()
}

/// Adds one.
pub(crate) fn append(book: &Path, row: &Row) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(book).with_context(|| book.display().to_string())?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}

/// Writes the table into the page, between its two marks.
pub(crate) fn write_table(page: &Path, setups: &[Setup], rows: &[Row]) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{} lacks {BEGIN}", page.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} lacks {END}", page.display()))?;
    std::fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", table(setups, rows)))?;
    Ok(())
}

fn table(setups: &[Setup], rows: &[Row]) -> String {
    let find =
        |bot: &str, mode, scenario| rows.iter().find(|r| (r.bot.as_str(), r.mode, r.scenario) == (bot, mode, scenario));
    let mut text = String::new();
    for (title, columns) in [
        (
            "Planned changes",
            vec![
                ("roll, direct", Mode::Direct, Scenario::Roll),
                ("roll", Mode::Gate, Scenario::Roll),
                ("two replicas, direct", Mode::Direct, Scenario::TwoLoaded),
                ("two replicas", Mode::Gate, Scenario::TwoLoaded),
                ("2, 1, 2 replicas", Mode::Gate, Scenario::Scale),
                ("roll in a backlog of 100", Mode::Gate, Scenario::Backlog),
            ],
        ),
        (
            "Handlers that work for so long and call nothing meanwhile, in a roll",
            vec![
                ("0 s", Mode::Gate, Scenario::Silent0),
                ("1 s", Mode::Gate, Scenario::Silent1),
                ("3 s", Mode::Gate, Scenario::Silent3),
                ("10 s", Mode::Gate, Scenario::Silent10),
                ("30 s", Mode::Gate, Scenario::Silent30),
                ("Settled: 0 s", Mode::Settled, Scenario::Silent0),
                ("1 s", Mode::Settled, Scenario::Silent1),
                ("3 s", Mode::Settled, Scenario::Silent3),
                ("10 s", Mode::Settled, Scenario::Silent10),
                ("30 s", Mode::Settled, Scenario::Silent30),
            ],
        ),
        (
            "Deaths",
            vec![
                ("crash, direct", Mode::Direct, Scenario::Crash),
                ("crash", Mode::Gate, Scenario::Crash),
                ("crash, Settled", Mode::Settled, Scenario::Crash),
                ("bot restarts", Mode::Gate, Scenario::BotRestart),
                ("bot restarts, Settled", Mode::Settled, Scenario::BotRestart),
                ("gate restarts", Mode::Gate, Scenario::GateRestart),
            ],
        ),
        (
            "Trouble",
            vec![
                ("429s", Mode::Gate, Scenario::Storm429),
                ("502s", Mode::Gate, Scenario::Storm502),
                ("getMe 502", Mode::Gate, Scenario::GetMe502),
                ("PostgreSQL away", Mode::Gate, Scenario::PostgresAway),
                ("foreign poller", Mode::Gate, Scenario::ForeignPoller),
                ("webhook left set", Mode::Gate, Scenario::WebhookLeft),
                ("drop flag", Mode::Gate, Scenario::DropFlag),
            ],
        ),
    ] {
        let _ = writeln!(text, "\n### {title}\n");
        let heads: Vec<&str> = columns.iter().map(|(head, ..)| *head).collect();
        let _ = writeln!(text, "| library | {} |", heads.join(" | "));
        let _ = writeln!(text, "| --- |{}", " --- |".repeat(heads.len()));
        for setup in setups {
            let cells: Vec<String> = columns
                .iter()
                .map(|(_, mode, scenario)| {
                    find(&setup.name, *mode, *scenario).map_or_else(|| "-".to_owned(), Row::short)
                })
                .collect();
            let _ = writeln!(text, "| {} {} | {} |", setup.title, setup.version, cells.join(" | "));
        }
    }
    text.push_str("\n### What is promised\n\n");
    let silences: BTreeMap<&str, u64> = rows
        .iter()
        .filter(|r| (r.mode, r.scenario) == (Mode::Gate, Scenario::Roll))
        .map(|r| (r.bot.as_str(), r.figures.longest_silence_ms))
        .collect();
    for setup in setups {
        let promise = match setup.acks {
            Acks::First => {
                "acknowledges what it has queued: nothing is lost or doubled in planned changes; a crash loses what is in its \
                 memory, with `delivery: Settled` it is repeated instead"
            }
            Acks::After => {
                "acknowledges what it has handled: nothing is lost or doubled in planned changes; after a crash at most one \
                 batch comes again"
            }
        };
        let silence = silences
            .get(setup.name.as_str())
            .map_or(String::new(), |ms| format!(" (longest silence in its rolls: {:.1} s)", *ms as f64 / 1000.0));
        let _ = writeln!(text, "* **{}** {promise}{silence}.", setup.title);
    }
    text.push('\n');
    text
}
