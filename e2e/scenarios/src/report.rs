//! What a run found, and the floors below which a run proves nothing.

use std::collections::BTreeMap;

use pollux_botapi::{BotVerdict, Counts};
use serde::Serialize;

use crate::bot::Library;

/// A run with fewer updates than this proves nothing.
const UPDATES_FLOOR: u64 = 1_000;
/// Nor does one in which a planned handover saw fewer updates than this around it.
const WINDOW_FLOOR: u64 = 20;
/// A gap in the status is at most this far from the truth.
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
    pub(crate) failed: Vec<String>,
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
        let errors: Vec<f64> = self.rollouts.iter().filter_map(|rollout| rollout.told).map(Told::error_ms).collect();
        vec![
            format!(
                "gaps in the status beside the emulator's: {} compared, {:.0} ms apart at most",
                errors.len(),
                max(&errors)
            ),
            format!("node dead or cut off, next poll from another node: p50 {:.0} ms", median(&self.node_dead_ms)),
        ]
    }
}

// === impl Summary ===

impl Summary {
    /// Adds everything up, and fails what is below its floor.
    ///
    /// `switches` are those of planned handovers, in milliseconds, as the lease database has them.
    pub(crate) fn new(findings: Findings, bots: &[(Library, BotVerdict)], switches: &[f64], ttl_s: u64) -> Self {
        let mut failed = findings.failed;
        let sum = |count: fn(&Counts) -> u64| bots.iter().map(|(_, verdict)| count(&verdict.counts)).sum::<u64>();
        let (lost, dup, conflict) = (sum(|c| c.lost), sum(|c| c.dup), sum(|c| c.conflict));
        let updates = bots.iter().map(|(_, verdict)| verdict.updates).sum();
        if updates < UPDATES_FLOOR {
            failed.push(format!("only {updates} updates; fewer than {UPDATES_FLOOR} prove nothing"));
        }
        for (kind, count) in [("lost", lost), ("dup", dup), ("conflict", conflict)] {
            if count > 0 {
                failed.push(format!("{kind}: {count}"));
            }
        }
        for (_, verdict) in bots {
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
        for rollout in findings.rollouts.iter().filter(|r| r.handovers != 1) {
            failed.push(format!("the rollout of {} cost {} handovers", rollout.bot, rollout.handovers));
        }
        for rollout in &findings.rollouts {
            if let Some(told) = rollout.told.filter(|told| told.error_ms() > GAP_TOLERANCE_MS) {
                failed.push(format!("the status of {} is not what happened: {told:?}", rollout.bot));
            }
        }
        let mut crash: BTreeMap<&'static str, Counts> = BTreeMap::new();
        for (library, verdict) in bots {
            let entry = crash.entry(library.short()).or_default();
            entry.lost += verdict.crash.lost;
            entry.dup += verdict.crash.dup;
            entry.conflict += verdict.crash.conflict;
        }
        Self {
            rollouts: findings.rollouts.len(),
            libraries: crash.len(),
            updates,
            in_windows: bots.iter().map(|(_, verdict)| verdict.in_windows).sum(),
            lost,
            dup,
            conflict,
            late: bots.iter().map(|(_, verdict)| verdict.late).sum(),
            crash,
            handovers_max: findings.rollouts.iter().map(|r| r.handovers).max().unwrap_or_default(),
            switch_ms_p50: median(switches),
            switch_ms_max: max(switches),
            bot_crash_ms_max: max(&findings.bot_crash_ms),
            pod_restart_ms_max: max(&findings.pod_restart_ms),
            node_dead_ms_max: max(&findings.node_dead_ms),
            ttl_s,
            failed,
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
