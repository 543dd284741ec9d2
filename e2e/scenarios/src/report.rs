//! What a run found, and the floors below which a run proves nothing.

use std::collections::BTreeMap;

use pollux_botapi::{BotVerdict, Counts};
use serde::Serialize;

use crate::bot::Library;

/// A run with fewer updates than this proves nothing.
const UPDATES_FLOOR: u64 = 1_000;
/// Nor does one in which a planned handover saw fewer updates than this around it.
const WINDOW_FLOOR: u64 = 20;
/// A gap in the status is this close to the truth, in the middle: five rollouts at once on two cores make the network between
/// agent and emulator late now and then, and neither side can know.
const GAP_TOLERANCE_MS: f64 = 20.0;

/// One rollout.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) bot: String,
    pub(crate) handovers: i64,
    pub(crate) told: Option<Told>,
}

/// The same gap twice, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// As the resource's status says: durations measured by both agents.
    pub(crate) status_ms: f64,
    /// As the emulator saw it, on one clock.
    pub(crate) seen_ms: f64,
}

/// What the scenarios found, one after the other.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) rollouts: Vec<Rollout>,
    pub(crate) bot_crash_ms: Vec<f64>,
    pub(crate) pod_restart_ms: Vec<f64>,
    pub(crate) node_dead_ms: Vec<f64>,
    pub(crate) passed: Vec<String>,
    /// What this cluster could not have.
    pub(crate) skipped: Vec<String>,
    pub(crate) failed: Vec<String>,
}

/// All that is known of a run, or of several.
#[derive(Default)]
pub(crate) struct Evidence {
    pub(crate) findings: Findings,
    /// The ledger's verdicts.
    pub(crate) verdicts: Vec<(Library, BotVerdict)>,
    /// Switch times of planned handovers, in milliseconds, as the lease database has them.
    pub(crate) switches: Vec<f64>,
}

/// The last line of `make e2e`.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    rollouts: usize,
    libraries: usize,
    updates: u64,
    in_windows: u64,
    lost: u64,
    dup: u64,
    conflict: u64,
    late: u64,
    /// What kills, pauses and cuts cost, by library.
    crash: BTreeMap<&'static str, Counts>,
    handovers_max: i64,
    switch_ms_p50: f64,
    switch_ms_max: f64,
    bot_crash_ms_max: f64,
    pod_restart_ms_max: f64,
    node_dead_ms_max: f64,
    ttl_s: u64,
    pub(crate) failed: Vec<String>,
}

// === impl Told ===

impl Told {
    fn error_ms(self) -> f64 {
        (self.status_ms - self.seen_ms).abs()
    }
}

// === impl Findings ===

impl Findings {
    /// What the last line has no key for.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let told: Vec<Told> = self.rollouts.iter().filter_map(|rollout| rollout.told).collect();
        let errors = errors(&told);
        vec![
            format!(
                "gaps in the status beside the emulator's: {} compared, apart by {:.1} ms (p50), {:.1} ms (max)",
                errors.len(),
                median(&errors),
                max(&errors)
            ),
            format!(
                "node dead or cut off, next poll from another node: p50 {:.0} ms of {}",
                median(&self.node_dead_ms),
                self.node_dead_ms.len()
            ),
        ]
    }
}

// === impl Evidence ===

impl Evidence {
    /// Of a run that did not come to its end.
    pub(crate) fn failed(why: String) -> Self {
        Self { findings: Findings { failed: vec![why], ..Findings::default() }, ..Self::default() }
    }

    /// What is not as it must be becomes a finding, and so does a run that is too small to prove anything.
    pub(crate) fn check_floors(&mut self) {
        let failed = &mut self.findings.failed;
        let updates: u64 = self.verdicts.iter().map(|(_, verdict)| verdict.updates).sum();
        if updates < UPDATES_FLOOR {
            failed.push(format!("only {updates} updates; fewer than {UPDATES_FLOOR} prove nothing"));
        }
        for (_, verdict) in &self.verdicts {
            let Counts { lost, dup, conflict } = verdict.counts;
            for (kind, count) in [("lost", lost), ("dup", dup), ("conflict", conflict)] {
                if count > 0 {
                    failed.push(format!("{}: {kind}: {count}", verdict.username));
                }
            }
            for handover in verdict.handovers.iter().filter(|h| h.in_window < WINDOW_FLOOR) {
                failed.push(format!(
                    "only {} updates around the handover of {} at {} s; fewer than {WINDOW_FLOOR} prove nothing",
                    handover.in_window,
                    verdict.username,
                    handover.at.as_secs(),
                ));
            }
            if verdict.open_polls_max > 1 {
                failed.push(format!("{}: {} polls at once", verdict.username, verdict.open_polls_max));
            }
        }
        for rollout in &self.findings.rollouts {
            if rollout.handovers != 1 {
                failed.push(format!("the rollout of {} cost {} handovers", rollout.bot, rollout.handovers));
            }
        }
        let told: Vec<Told> = self.findings.rollouts.iter().filter_map(|rollout| rollout.told).collect();
        if median(&errors(&told)) > GAP_TOLERANCE_MS {
            failed.push(format!("the gaps in the status are not what happened: {told:?}"));
        }
    }

    /// Adds another run's; `prefix` says which run a finding is of.
    pub(crate) fn add(&mut self, other: Self, prefix: &str) {
        let (mine, its) = (&mut self.findings, other.findings);
        mine.rollouts.extend(its.rollouts);
        mine.bot_crash_ms.extend(its.bot_crash_ms);
        mine.pod_restart_ms.extend(its.pod_restart_ms);
        mine.node_dead_ms.extend(its.node_dead_ms);
        mine.passed.extend(its.passed);
        mine.skipped.extend(its.skipped);
        mine.failed.extend(its.failed.into_iter().map(|finding| format!("{prefix}{finding}")));
        self.verdicts.extend(other.verdicts);
        self.switches.extend(other.switches);
    }
}

// === impl Summary ===

impl Summary {
    /// Adds everything up.
    pub(crate) fn new(evidence: &Evidence, ttl_s: u64) -> Self {
        let Evidence { findings, verdicts, switches } = evidence;
        let sum = |count: fn(&Counts) -> u64| verdicts.iter().map(|(_, verdict)| count(&verdict.counts)).sum::<u64>();
        let mut crash: BTreeMap<&'static str, Counts> = BTreeMap::new();
        for (library, verdict) in verdicts {
            let entry = crash.entry(library.short()).or_default();
            entry.lost += verdict.crash.lost;
            entry.dup += verdict.crash.dup;
            entry.conflict += verdict.crash.conflict;
        }
        Self {
            rollouts: findings.rollouts.len(),
            libraries: crash.len(),
            updates: verdicts.iter().map(|(_, verdict)| verdict.updates).sum(),
            in_windows: verdicts.iter().map(|(_, verdict)| verdict.in_windows).sum(),
            lost: sum(|c| c.lost),
            dup: sum(|c| c.dup),
            conflict: sum(|c| c.conflict),
            late: verdicts.iter().map(|(_, verdict)| verdict.late).sum(),
            crash,
            handovers_max: findings.rollouts.iter().map(|r| r.handovers).max().unwrap_or_default(),
            switch_ms_p50: median(switches),
            switch_ms_max: max(switches),
            bot_crash_ms_max: max(&findings.bot_crash_ms),
            pod_restart_ms_max: max(&findings.pod_restart_ms),
            node_dead_ms_max: max(&findings.node_dead_ms),
            ttl_s,
            failed: findings.failed.clone(),
        }
    }
}

fn errors(told: &[Told]) -> Vec<f64> {
    told.iter().map(|told| told.error_ms()).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
