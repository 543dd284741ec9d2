//! What schedules show: one line for each, the distribution over all of them, and sums that grow from run to run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::Kind;

/// What one fault did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    /// Whether it hit the leader, or all.
    pub(crate) leader: bool,
    /// How long it took until somebody led again.
    pub(crate) back: Duration,
    /// How often the lease changed hands by it.
    pub(crate) changes: usize,
}

/// What became of a schedule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    /// Seconds.
    pub(crate) took: f64,
    pub(crate) epochs: usize,
    pub(crate) samples: Vec<Sample>,
    /// Two leaders at one instant.
    pub(crate) overlap: bool,
    /// An epoch that did not rise.
    pub(crate) stale_epoch: bool,
    /// These, or anything else that must not be.
    pub(crate) failure: Option<String>,
    /// What happened, line by line.
    pub(crate) diary: Vec<String>,
}

/// What schedules showed, all together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Total {
    pub(crate) schedules: usize,
    pub(crate) overlaps: usize,
    pub(crate) stale_epochs: usize,
    pub(crate) epochs: usize,
    pub(crate) faults: BTreeMap<Kind, Spread>,
    pub(crate) failed: Vec<u64>,
}

/// How long one kind of fault kept everybody from leading.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) n: usize,
    /// Of these, how many hit the leader; only they count below.
    pub(crate) leader: usize,
    /// How often the lease changed hands in all of them.
    pub(crate) changes: usize,
    pub(crate) p50_ms: u64,
    pub(crate) max_ms: u64,
    /// Of those that hit the leader, sorted.
    #[serde(skip)]
    backs: Vec<Duration>,
}

/// A run, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) at: Timestamp,
    pub(crate) commit: String,
    pub(crate) first_seed: u64,
    pub(crate) last_seed: u64,
    /// What seeds drew from: another list makes other schedules of them.
    pub(crate) kinds: Vec<Kind>,
    /// Kinds that this machine could not do.
    pub(crate) skipped: Vec<Kind>,
    #[serde(flatten)]
    pub(crate) total: Total,
}

// === impl Outcome ===

impl Outcome {
    /// One line; a failure has more, and so has everything if all is to be told.
    pub(crate) fn text(&self, all: bool) -> String {
        let faults: Vec<_> = self.samples.iter().map(|sample| sample.kind.word()).collect();
        let worst = self.samples.iter().max_by_key(|sample| sample.back);
        let worst = worst.map(|s| format!("{} ms after {}", s.back.as_millis(), s.kind.word())).unwrap_or_default();
        let verdict = if self.failure.is_some() { "FAILED" } else { "ok" };
        format!(
            "seed {} {verdict} in {:.0} s, {} epochs, at worst back {worst}: {}{}",
            self.seed,
            self.took,
            self.epochs,
            faults.join(" "),
            match &self.failure {
                Some(failure) => format!("\n{failure}\n{}", self.diary.join("\n")),
                None if all => format!("\n{}", self.diary.join("\n")),
                None => String::new(),
            }
        )
    }
}

// === impl Total ===

impl Total {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.overlaps += usize::from(outcome.overlap);
        self.stale_epochs += usize::from(outcome.stale_epoch);
        self.epochs += outcome.epochs;
        self.failed.extend(outcome.failure.as_ref().map(|_| outcome.seed));
        for sample in &outcome.samples {
            self.faults.entry(sample.kind).or_default().add(sample);
        }
    }

    /// Adds another run's sums. Of two medians the greater one is kept: it is at least not too good.
    fn merge(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.overlaps += other.overlaps;
        self.stale_epochs += other.stale_epochs;
        self.epochs += other.epochs;
        self.failed.extend(&other.failed);
        for (kind, theirs) in &other.faults {
            let ours = self.faults.entry(*kind).or_default();
            ours.n += theirs.n;
            ours.leader += theirs.leader;
            ours.changes += theirs.changes;
            ours.p50_ms = ours.p50_ms.max(theirs.p50_ms);
            ours.max_ms = ours.max_ms.max(theirs.max_ms);
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut text =
            format!("{:<20} {:>6} {:>9} {:>8} {:>9} {:>9}\n", "fault", "n", "at leader", "changes", "p50 ms", "max ms");
        for (kind, spread) in &self.faults {
            let Spread { n, leader, changes, p50_ms, max_ms, .. } = spread;
            text.push_str(&format!("{:<20} {n:>6} {leader:>9} {changes:>8} {p50_ms:>9} {max_ms:>9}\n", kind.word()));
        }
        text
    }
}

// === impl Spread ===

impl Spread {
    fn add(&mut self, sample: &Sample) {
        self.n += 1;
        self.changes += sample.changes;
        if sample.leader {
            self.leader += 1;
            let place = self.backs.partition_point(|back| *back <= sample.back);
            self.backs.insert(place, sample.back);
            let ms = |place: usize| u64::try_from(self.backs[place].as_millis()).unwrap_or(u64::MAX);
            (self.p50_ms, self.max_ms) = (ms((self.backs.len() - 1) / 2), ms(self.backs.len() - 1));
        }
    }
}

// === impl Run ===

impl Run {
    /// Adds a line to the file where runs add up.
    pub(crate) fn append(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let line = format!("{}\n", serde_json::to_string(self)?);
        file.write_all(line.as_bytes()).with_context(|| path.display().to_string())
    }

    /// All runs of a file; none if there is no file.
    pub(crate) fn all(path: &Path) -> Result<Vec<Self>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let lines = BufReader::new(File::open(path)?).lines();
        let parsed = lines.map(|line| serde_json::from_str(&line?).map_err(anyhow::Error::from));
        parsed.collect::<Result<_>>().with_context(|| path.display().to_string())
    }
}

/// The sums of all runs, and of each commit.
pub(crate) fn summary(path: &Path) -> Result<String> {
    let runs = Run::all(path)?;
    ensure!(!runs.is_empty(), "there are no runs in {}", path.display());
    let mut all = Total::default();
    let mut commits: Vec<(&str, Total)> = Vec::new();
    for run in &runs {
        all.merge(&run.total);
        match commits.iter_mut().find(|(commit, _)| *commit == run.commit) {
            Some((_, total)) => total.merge(&run.total),
            None => {
                let mut total = Total::default();
                total.merge(&run.total);
                commits.push((&run.commit, total));
            }
        }
    }
    let mut text = all.table();
    for (commit, total) in &commits {
        let Total { schedules, overlaps, stale_epochs, failed, .. } = total;
        text.push_str(&format!(
            "commit {commit}: {schedules} schedules, {overlaps} overlaps, {stale_epochs} stale epochs, failed: {failed:?}\n"
        ));
    }
    text.push_str(&serde_json::to_string(&all)?);
    Ok(text)
}

/// What is being run: the commit, and whether it was changed since.
pub(crate) fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    if changed { format!("{commit}-changed") } else { commit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(seed: u64, ms: u64, leader: bool) -> Outcome {
        let sample = Sample { kind: Kind::CutIn, leader, back: Duration::from_millis(ms), changes: 1 };
        Outcome { seed, epochs: 3, samples: vec![sample], ..Outcome::default() }
    }

    #[test]
    fn only_faults_that_hit_the_leader_count_for_the_time_to_return() {
        let mut total = Total::default();
        for (ms, leader) in [(900, true), (100, true), (500, true), (1, false), (9000, false)] {
            total.add(&outcome(ms, ms, leader));
        }
        let spread = &total.faults[&Kind::CutIn];
        assert_eq!((spread.n, spread.leader, spread.p50_ms, spread.max_ms), (5, 3, 500, 900));
    }

    #[test]
    fn runs_add_up_over_files_that_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("soak/schedules.jsonl");
        for seed in [1, 2] {
            let mut total = Total::default();
            total.add(&Outcome { overlap: true, failure: Some("why".into()), ..outcome(seed, 10 * seed, true) });
            let run = Run {
                at: Timestamp::UNIX_EPOCH,
                commit: "abc".into(),
                first_seed: seed,
                last_seed: seed,
                kinds: vec![Kind::CutIn],
                skipped: Vec::new(),
                total,
            };
            run.append(&path).unwrap();
        }
        assert_eq!(Run::all(&path).unwrap().iter().map(|run| run.last_seed).max(), Some(2));
        let text = summary(&path).unwrap();
        assert!(text.contains("commit abc: 2 schedules, 2 overlaps, 0 stale epochs, failed: [1, 2]"), "{text}");
        let sums: Total = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(sums.faults[&Kind::CutIn].max_ms, 20);
    }
}
