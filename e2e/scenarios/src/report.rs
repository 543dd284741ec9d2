//! What a run found, and the floors below which a run proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pollux_botapi::{BotVerdict, Counts, MarkKind};
use serde::Serialize;

use crate::bot::Library;

/// A run with fewer updates than this proves nothing.
const UPDATES_FLOOR: u64 = 1_000;
/// Nor does one in which a planned handover saw fewer updates than this around it.
const WINDOW_FLOOR: u64 = 20;
/// A gap in the status is this close to the truth, in the middle: five rollouts at once on two cores make the network between
/// agent and emulator late now and then, and neither side can know.
const GAP_TOLERANCE_MS: f64 = 20.0;
/// A bot's death is seen; its lease need not end. What must hold on a starved machine too; goals are far below, and figures are
/// printed.
const CRASH_LIMIT_MS: f64 = 5_000.0;
/// How much later than its lease's end a dead node's successor may poll.
const TAKEOVER_SLACK_MS: f64 = 3_000.0;
/// The silence after which the server ends a session, and the fence of its holder; both as they are by default.
const FAST_MS: f64 = 4_000.0;

/// One rollout.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) bot: String,
    /// By the epoch in the lease database.
    pub(crate) handovers: i64,
    /// By the polls that the emulator saw.
    pub(crate) seen: usize,
    pub(crate) told: Option<Told>,
}

/// A version that went back.
#[derive(Clone, Debug)]
pub(crate) struct Setback {
    pub(crate) version: &'static str,
    /// Of the switches there and back.
    pub(crate) gaps_ms: Vec<f64>,
    /// Messages that it took and did not answer.
    pub(crate) lost: u64,
    /// Messages that it answered, and died before it said so.
    pub(crate) dup: u64,
    /// What the status says.
    pub(crate) message: String,
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
    pub(crate) setbacks: Vec<Setback>,
    pub(crate) bot_crash_ms: Vec<f64>,
    pub(crate) pod_restart_ms: Vec<f64>,
    pub(crate) node_dead_ms: Vec<f64>,
    /// Where failover goes by sessions.
    pub(crate) node_fast_ms: Vec<f64>,
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
    /// Without a figure, what it is about did not happen.
    switch_ms_p50: Option<f64>,
    switch_ms_max: Option<f64>,
    bot_crash_ms_max: Option<f64>,
    pod_restart_ms_max: Option<f64>,
    node_dead_ms_max: Option<f64>,
    node_fast_ms_max: Option<f64>,
    ttl_s: u64,
    passed: usize,
    skipped: usize,
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
    /// How far the gaps in the status are from those that the emulator saw.
    fn gap_errors(&self) -> Vec<f64> {
        self.rollouts.iter().filter_map(|rollout| rollout.told).map(Told::error_ms).collect()
    }

    /// What the last line has no key for.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let errors = self.gap_errors();
        let went_back = self.setbacks.iter().map(|Setback { version, gaps_ms, lost, dup, message }| {
            let gaps: Vec<_> = gaps_ms.iter().map(|gap| format!("{gap:.0} ms")).collect();
            format!(
                "version {version} went back, switches [{}], {lost} lost, {dup} answered twice: {message}",
                gaps.join(", ")
            )
        });
        let mut remarks = vec![
            format!(
                "gaps in the status beside the emulator's: {} compared, apart by {:.1} ms (p50), {:.1} ms (max)",
                errors.len(),
                median(&errors).unwrap_or_default(),
                max(&errors).unwrap_or_default()
            ),
            format!(
                "node dead or cut off, next poll from another node: p50 {:.0} ms of {}",
                median(&self.node_dead_ms).unwrap_or_default(),
                self.node_dead_ms.len()
            ),
            format!(
                "the same where failover goes by sessions: p50 {:.0} ms of {}",
                median(&self.node_fast_ms).unwrap_or_default(),
                self.node_fast_ms.len()
            ),
        ];
        remarks.extend(went_back);
        remarks
    }
}

// === impl Evidence ===

impl Evidence {
    /// Of a run that did not come to its end.
    pub(crate) fn failed(why: String) -> Self {
        Self { findings: Findings { failed: vec![why], ..Findings::default() }, ..Self::default() }
    }

    /// What is not as it must be becomes a finding, and so does a run that is too small to prove anything.
    pub(crate) fn judge(&mut self, ttl_s: u64) {
        let (switches, gap_errors) = (self.switches(), self.findings.gap_errors());
        let failed = &mut self.findings.failed;
        let answered: u64 = self.verdicts.iter().map(|(_, verdict)| verdict.answered).sum();
        if answered < UPDATES_FLOOR {
            failed.push(format!("only {answered} updates were answered; fewer than {UPDATES_FLOOR} prove nothing"));
        }
        let libraries: BTreeSet<Library> = self.verdicts.iter().map(|(library, _)| *library).collect();
        if libraries.len() < Library::ALL.len() {
            failed.push(format!("only {} libraries", libraries.len()));
        }
        for (_, verdict) in &self.verdicts {
            let Counts { lost, dup, conflict } = verdict.counts;
            let crashes = verdict.marks.iter().filter(|mark| mark.kind == MarkKind::Crash).count();
            for (kind, count, allowed) in [
                ("lost", lost, 0),
                ("dup", dup, 0),
                ("conflict", conflict, 0),
                // A bot that stops to serve loses nothing: it leaves everything in the queue.
                ("never delivered", verdict.undelivered, 0),
                ("answers to nothing", verdict.stray, 0),
                // A list of allowed updates that is passed on wrongly loses messages before they have a number.
                ("kept out of the queue", verdict.refused, 0),
                // What kills and pauses may cost is messages, never a second poller: at most one late request each.
                ("conflict around a crash", verdict.crash.conflict, 0),
                ("late requests", verdict.late, u64::try_from(crashes).unwrap_or(u64::MAX)),
            ] {
                if count > allowed {
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
            if (rollout.handovers, rollout.seen) != (1, 1) {
                failed.push(format!(
                    "the rollout of {} cost {} handovers by the epoch, {} by who polled",
                    rollout.bot, rollout.handovers, rollout.seen
                ));
            }
        }
        let rollouts = self.findings.rollouts.len();
        if switches.len() < rollouts {
            failed.push(format!("{} planned handovers were seen in {rollouts} rollouts", switches.len()));
        }
        let ttl_ms = Duration::from_secs(ttl_s).as_secs_f64() * 1000.0;
        let node_limit = ttl_ms + TAKEOVER_SLACK_MS;
        for (what, figures, limit) in [
            // It waits for the bot, never for a lease to end.
            ("a planned handover took", &switches, ttl_ms),
            ("after a bot's death the next poll took", &self.findings.bot_crash_ms, CRASH_LIMIT_MS),
            ("after an agent's death the next poll took", &self.findings.pod_restart_ms, node_limit),
            ("after a node's death the next poll took", &self.findings.node_dead_ms, node_limit),
            ("after a session's end the next poll took", &self.findings.node_fast_ms, FAST_MS + TAKEOVER_SLACK_MS),
        ] {
            failed.extend(figures.iter().filter(|ms| **ms > limit).map(|ms| format!("{what} {ms:.0} ms")));
        }
        if median(&gap_errors).is_some_and(|error| error > GAP_TOLERANCE_MS) {
            failed.push(format!("the gaps in the status are not what happened: {:?}", self.findings.rollouts));
        }
    }

    /// Adds another run's; `prefix` says which run a finding is of.
    pub(crate) fn add(&mut self, other: Self, prefix: &str) {
        let (mine, its) = (&mut self.findings, other.findings);
        mine.rollouts.extend(its.rollouts);
        mine.setbacks.extend(its.setbacks);
        mine.bot_crash_ms.extend(its.bot_crash_ms);
        mine.pod_restart_ms.extend(its.pod_restart_ms);
        mine.node_dead_ms.extend(its.node_dead_ms);
        mine.node_fast_ms.extend(its.node_fast_ms);
        mine.passed.extend(its.passed);
        mine.skipped.extend(its.skipped);
        mine.failed.extend(its.failed.into_iter().map(|finding| format!("{prefix}{finding}")));
        self.verdicts.extend(other.verdicts);
    }

    /// How long nobody polled at each planned handover, in milliseconds, by the emulator's clock.
    fn switches(&self) -> Vec<f64> {
        let handovers = self.verdicts.iter().flat_map(|(_, verdict)| &verdict.handovers);
        handovers.filter(|handover| !handover.crash).map(|handover| handover.gap.as_secs_f64() * 1000.0).collect()
    }
}

// === impl Summary ===

impl Summary {
    /// Adds everything up.
    pub(crate) fn new(evidence: &Evidence, ttl_s: u64) -> Self {
        let Evidence { findings, verdicts } = evidence;
        let switches = evidence.switches();
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
            switch_ms_p50: median(&switches),
            switch_ms_max: max(&switches),
            bot_crash_ms_max: max(&findings.bot_crash_ms),
            pod_restart_ms_max: max(&findings.pod_restart_ms),
            node_dead_ms_max: max(&findings.node_dead_ms),
            node_fast_ms_max: max(&findings.node_fast_ms),
            ttl_s,
            passed: findings.passed.len(),
            skipped: findings.skipped.len(),
            failed: findings.failed.clone(),
        }
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn max(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}
