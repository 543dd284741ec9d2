//! The protocol holds, and without any one of its rules it does not: each is taken away, and the invariant that it is for falls.

use std::collections::BTreeMap;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use super::checks::Invariant;
use super::{Act, Assumption, Cast, Deviation, Exploration};
use crate::core::rules::{Rule, Timing};
use Deviation::*;

/// Longer than a leader's fence, a candidate's patience after it, and a doubt.
const HORIZON: Duration = Duration::from_secs(36);

/// Schedules by the invariant that falls; `depth` is how long they may be.
fn explore(model: Exploration, depth: usize, enough: HasDiscoveries) -> (usize, BTreeMap<&'static str, Vec<Act>>) {
    let checker = model.checker().threads(2).target_max_depth(depth).finish_when(enough).spawn_bfs().join();
    let found = checker.discoveries().into_iter().map(|(name, path)| (name, path.into_actions())).collect();
    (checker.unique_state_count(), found)
}

/// Depth first: what is kept of a state that was visited is its fingerprint.
#[track_caller]
fn holds(model: Exploration) -> usize {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let found: BTreeMap<_, _> =
        checker.discoveries().into_iter().map(|(name, path)| (name, path.into_actions())).collect();
    assert!(found.is_empty(), "{found:#?}");
    checker.unique_state_count()
}

/// `invariant` is what the rule is for.
#[track_caller]
fn falls(invariant: Invariant, what: &str, model: Exploration) {
    // With the rule kept nothing falls. (A world in which more goes wrong takes longer than a test may: `make soak-model`.)
    if model.deviations <= depth() {
        holds(Exploration { without: None, broken: None, timing: Timing::PRODUCTION, ..model.clone() });
    }
    let name = invariant.name();
    let (mut states, mut shortest) = (0, None::<Vec<Act>>);
    // The checker remembers the last one that it met, so it is asked for a shorter one until there is none.
    loop {
        let depth = shortest.as_ref().map_or(usize::MAX, |acts| acts.len() + 1);
        let (more, mut found) = explore(model.clone(), depth, HasDiscoveries::AnyOf([name].into()));
        states += more;
        match found.remove(name) {
            Some(acts) => shortest = Some(acts),
            None => break,
        }
    }
    let Some(acts) = shortest else { panic!("nobody needs {what}: {states} states, and {name} stands") };
    let story: Vec<_> = acts.iter().map(|act| format!("{act:?}")).collect();
    println!("without {what} falls {name}:\n    {} ({states} states)", story.join(" "));
}

fn depth() -> u8 {
    std::env::var("POLLUX_DEVIATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn without(rule: Rule, cast: Cast, deviations: u8, palette: &[Deviation]) -> Exploration {
    let palette = palette.to_vec();
    Exploration { without: Some(rule), palette, ..Exploration::safe(cast, deviations, HORIZON) }
}

fn two(rule: Rule, deviations: u8, palette: &[Deviation]) -> Exploration {
    without(rule, Cast::Two, deviations, palette)
}

fn twins(rule: Rule, deviations: u8, palette: &[Deviation]) -> Exploration {
    without(rule, Cast::Twins, deviations, palette)
}

fn rejected(rule: Rule, deviations: u8, palette: &[Deviation]) -> Exploration {
    without(rule, Cast::Rejected, deviations, palette)
}

fn of_short_ttl(rule: Rule, deviations: u8, palette: &[Deviation]) -> Exploration {
    Exploration { ttl: Duration::from_secs(3), ..two(rule, deviations, palette) }
}

fn fast(rule: Rule, deviations: u8, palette: &[Deviation]) -> Exploration {
    Exploration { fast: true, horizon: Duration::from_secs(12), ..two(rule, deviations, palette) }
}

macro_rules! variants {
    ($($test:ident: $invariant:ident falls without $rule:ident, among $cast:ident, $deviations:literal of $palette:expr;)*) => {
        $(#[test]
        fn $test() {
            falls(Invariant::$invariant, stringify!($rule), $cast(Rule::$rule, $deviations, &$palette));
        })*
    };
}

variants! {
    a_fence_dated_from_the_answer: I4 falls without FenceFromSending, among two, 2 of [Hold, Pause];
    a_fence_of_the_setting_instead_of_the_written_ttl: I4 falls without FenceFromTheWrittenTtl, among two, 2 of [Pause, LongTtl];
    a_fence_that_outlives_a_shorter_ttl: I4 falls without AShorterTtlCountsAtOnce, among two, 2 of [ShortTtl, Pause];
    polling_on_after_the_order_was_sent: I7 falls without EndedWhenSent, among two, 1 of [Give];
    polling_on_after_an_order_without_an_answer: I7 falls without EndedForGood, among two, 2 of [Give, Hold, Cut];
    a_successors_fence_dated_from_the_notification: I4 falls without GrantFromTheBeat, among two, 2 of [GiveToSuccessor, Pause];
    a_notification_that_grants: I1 falls without NotificationsGrantNothing, among two, 1 of [Forge];
    a_candidate_with_a_ttl_of_its_own: I4 falls without SilenceOfTheWrittenTtl, among two, 2 of [Pause, ShortTtl];
    a_second_process_in_the_pod_without_its_lock: I4 falls without ThePodsLock, among twins, 1 of [Pause];
    a_revision_that_may_not_lead: I11 falls without EligibleOnly, among rejected, 1 of [Pause];
    a_statement_of_an_earlier_incarnation: I5 falls without IncarnationIsCompared, among two, 2 of [Pause, Forget];
    a_rollback_that_nobody_waits_out: I4 falls without DoubtIsWaitedOut, among two, 3 of [GiveToSuccessor, Pause, Restore];
    vouching_after_the_fence: I5 falls without VouchedWithinTheFence, among two, 2 of [Cut, Forget];
    evidence_from_before_a_rollback: I4 falls without ObservedAnew, among two, 2 of [Pause, Forget];
    a_takeover_that_compares_no_number: I8 falls without TakeoverComparesNumber, among two, 2 of [Pause, Hold];
    an_epoch_that_does_not_rise_in_the_same_pod: I3 falls without EpochRises, among two, 1 of [Die];
    an_epoch_that_the_table_alone_remembers: I3 falls without EpochAboveTheForgotten, among two, 3 of [Give, Forget, Pause];
    a_renewal_that_compares_no_number: I4 falls without RenewComparesNumber, among of_short_ttl, 3 of [Hold, LongTtl, Pause];
    a_leader_that_lives_by_its_ttl_alone: I4 falls without BoundByTheSession, among fast, 1 of [Pause];
    a_session_fence_that_nobody_waits_out: I4 falls without SessionFenceIsWaitedOut, among fast, 2 of [EndSession, Pause];
    a_heartbeat_that_another_backend_answered: I4 falls without TheSameBackend, among fast, 1 of [Repool];
    a_first_try_that_counts: I10 falls without AlreadyTrying, among fast, 2 of [EndSessions, Hold];
    a_lost_session_that_the_row_goes_on_naming: I9 falls without ALostSessionIsGivenUp, among fast, 2 of [EndSession, Repool];
    a_heartbeat_dated_from_its_answer: I4 falls without HeartbeatFromSending, among fast, 2 of [Pause, EndSession];
    a_holder_that_is_bound_when_its_renewal_is_answered: I4 falls without BoundWhenSent, among fast, 2 of [Hold, EndSession];
    a_holder_that_is_free_when_it_says_so: I4 falls without UnboundWhenConfirmed, among fast, 2 of [Hold, EndSession];
    vouching_after_an_order: I4 falls without VouchedWithoutAnOrder, among two, 2 of [GiveToSuccessor, Forget];
    vouching_after_the_fence_of_the_session: I5 falls without VouchedWithinTheSession, among fast, 2 of [Cut, Forget];
}

#[test]
fn a_clock_that_stops_in_suspend() {
    let model = Exploration {
        broken: Some(Assumption::ClockRunsInSuspend),
        palette: vec![Pause],
        ..Exploration::safe(Cast::Two, 1, HORIZON)
    };
    falls(Invariant::I4, "a clock that goes on in suspend", model);
}

#[test]
fn a_candidate_that_measures_with_the_databases_clock() {
    let model = Exploration {
        broken: Some(Assumption::CandidatesOwnClock),
        palette: vec![StepClock],
        ..Exploration::safe(Cast::Two, 1, HORIZON)
    };
    falls(Invariant::I4, "a candidate's own clock", model);
}

#[test]
fn a_constant_that_is_too_small() {
    let timing = Timing { drift_percent: 0, ..Timing::PRODUCTION };
    let model = Exploration { timing, palette: vec![Pause, Forge], ..Exploration::safe(Cast::Two, 2, HORIZON) };
    falls(Invariant::I4, "a margin for drift", model);
    let timing = Timing { doubt_percent: 50, ..Timing::PRODUCTION };
    let model = Exploration {
        timing,
        palette: vec![GiveToSuccessor, Pause, Restore],
        ..Exploration::safe(Cast::Two, 3, HORIZON)
    };
    falls(Invariant::I4, "a doubt that is long enough", model);
}

#[test]
fn the_protocol_holds_among_three() {
    let states = holds(Exploration::safe(Cast::Three, 1, Duration::from_secs(14)));
    println!("{states} states");
}

fn of_sessions(deviations: u8) -> Exploration {
    let palette = [Pause, Die, Hold, Cut, GiveToSuccessor, Restart, Forget].into_iter().chain(Deviation::OF_SESSIONS);
    let safe = Exploration::safe(Cast::Two, deviations, Duration::from_secs(8));
    Exploration { fast: true, palette: palette.collect(), ..safe }
}

#[test]
fn failover_by_sessions_holds() {
    println!("{} states", holds(of_sessions(1)));
}

#[test]
fn the_protocol_holds() {
    println!("{} states", holds(Exploration::safe(Cast::Two, 1, HORIZON)));
}

/// Two things are of two kinds at most: the pairs of kinds are all schedules with two deviations, and each says when it is
/// through. Minutes each, hours together: `POLLUX_PAIRS=3..40` goes on where an earlier run ended.
#[track_caller]
fn pairs_hold(model: &Exploration) {
    let wanted = crate::core::asked("POLLUX_PAIRS").unwrap_or(0..u64::MAX);
    let kinds = model.palette.iter().enumerate();
    let pairs = kinds.flat_map(|(n, one)| model.palette[n..].iter().map(move |other| (*one, *other)));
    for (n, (one, other)) in (0..).zip(pairs).filter(|(n, _)| wanted.contains(n)) {
        let mut palette = vec![one, other];
        palette.dedup();
        println!("{n}: {one:?} and {other:?}: {} states", holds(Exploration { palette, ..model.clone() }));
    }
}

#[test]
#[ignore = "long: make soak-model"]
fn the_protocol_holds_whatever_two_things_go_wrong() {
    pairs_hold(&Exploration::safe(Cast::Two, 2, HORIZON));
}

#[test]
#[ignore = "long: make soak-model"]
fn failover_by_sessions_holds_whatever_two_things_go_wrong() {
    pairs_hold(&of_sessions(2));
}
