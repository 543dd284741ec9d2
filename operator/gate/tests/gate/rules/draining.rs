//! The planned way out.

use std::time::Duration;

use pollux_gate::core::{Call, Closed, ConnectionId, Input, Outcome, PollArgs, Reply, RequestId};
use pollux_gate::{DrainOutcome, Leadership, Ordering, Settings};

use super::World;

/// A leader whose bot has acknowledged update 1 and answered it.
fn busy() -> World {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.ask(2, 50);
    world.written();
    world.call(100);
    world
}

#[test]
fn r32_a_drain_waits_for_silence_and_ends_exact() {
    let mut world = busy();
    world.pass(600);
    world.step(Input::Drain);
    assert!(world.poll.is_none(), "nothing is polled while draining");
    world.pass(1399);
    assert_eq!(world.drained, []);
    world.pass(1);
    let drained = &world.drained[0];
    assert_eq!((drained.outcome, drained.unacknowledged, drained.owed), (DrainOutcome::Complete, 0, 0));
    assert!(drained.confirmed && world.poll.is_none(), "Telegram has offset 2 for more than half a second");
    assert_eq!(drained.duration, Duration::from_millis(1400));
    assert!(drained.last_poll_ended.is_some());
}

#[test]
fn r32_an_acknowledgement_that_telegram_has_not_is_confirmed() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2, 3]);
    world.step(Input::Drain);
    world.pass(100);
    world.ask(4, 50);
    assert!(world.poll.is_none());
    for _ in 0..3 {
        world.call(100);
    }
    world.pass(2000);
    assert_eq!(world.drained, []);
    let query = world.query();
    assert_eq!((query.offset, query.limit, query.timeout_seconds), (Some(4), 1, 0));
    world.brings(&[4]);
    let drained = &world.drained[0];
    assert!(drained.confirmed && drained.outcome == DrainOutcome::Complete);
    assert!(world.answers.iter().all(|answer| answer.1 == Reply::Empty || answer.0 == RequestId(1)));
}

#[test]
fn r32_a_poll_that_was_cut_off_early_is_confirmed_without_waiting_for_its_answer() {
    let mut world = busy();
    world.step(Input::Drain);
    world.pass(2000);
    assert_eq!(world.query().offset, Some(2), "its poll was open for 100 ms: whether Telegram has read it is unknown");
    world.written();
    world.pass(600);
    world.ends_unanswered();
    assert!(world.drained[0].confirmed, "open for more than half a second: it has arrived");
}

#[test]
fn r32_a_confirmation_is_tried_twice_and_then_owned_up_to() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.step(Input::Drain);
    world.ask(2, 50);
    world.call(10);
    world.pass(2000);
    world.ends(Outcome::Failed);
    assert_eq!(world.drained, []);
    world.ends(Outcome::Failed);
    assert!(!world.drained[0].confirmed);
}

#[test]
fn r32_a_one_worker_queue_is_drained_to_its_end() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2, 3, 4, 5]);
    world.ask(6, 50);
    world.written();
    world.pass(600);
    world.step(Input::Drain);
    for done in 0..5 {
        assert_eq!(world.drained, [], "{done} of 5 handled, one each 2.5 s");
        world.pass(if done == 0 { 1800 } else { 2400 });
        world.call(100);
    }
    world.pass(5000);
    assert_eq!(world.drained[0].outcome, DrainOutcome::Complete);
    assert_eq!(world.drained[0].owed, 0);
}

#[test]
fn r32_a_bot_whose_pace_is_unknown_gets_ten_seconds() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.ask(2, 50);
    world.written();
    world.step(Input::Drain);
    world.pass(9999);
    assert!(world.drained.is_empty() && world.poll.is_none());
    world.pass(1);
    world.brings(&[]);
    assert_eq!(world.drained[0].owed, 1);
}

#[test]
fn r32_a_drain_waits_for_the_call_in_flight_and_for_the_acknowledgement() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    let began = world.now;
    world.step(Input::Call(Call::Started { counts: true, began }));
    world.step(Input::Drain);
    world.pass(12_000);
    assert_eq!(world.drained, [], "the call goes on");
    world.step(Input::Call(Call::Ended { counts: true, began }));
    world.pass(7000);
    assert_eq!(world.drained, [], "the batch is not acknowledged");
    world.ask(2, 50);
    assert!(world.poll.is_some(), "long quiet: only the confirmation is left");
}

#[test]
fn r32_an_idle_bot_is_handed_over_at_once() {
    let mut world = busy();
    world.lead_for(1, 3_600_000);
    world.pass(31_000);
    world.step(Input::Drain);
    assert_eq!(world.drained[0].outcome, DrainOutcome::Complete);
    assert_eq!(world.drained[0].duration, Duration::ZERO);
}

#[test]
fn r32_5_a_terminating_gate_lets_the_bot_stop_quickly() {
    let mut world = World::new();
    let held = world.ask(1, 30);
    world.step(Input::Terminate);
    assert_eq!(world.answered(held), Some(Reply::Empty), "what is held is let go");
    let last = world.ask_with(PollArgs { offset: Some(2), limit: Some(1), timeout: Some(30), ..PollArgs::default() });
    assert_eq!(world.answered(last), Some(Reply::Empty));
    let zero = world.ask(2, 0);
    assert_eq!(world.answered(zero), Some(Reply::Empty), "though the offset is repeated");
    let other = world.ask(2, 30);
    world.pass(249);
    assert_eq!(world.answered(other), None, "a bot without its SIGTERM must not spin");
    world.pass(1);
    assert_eq!(world.answered(other), Some(Reply::Empty));
    world.lead(7);
    world.ask(3, 30);
    assert!(world.poll.is_none(), "a terminating gate polls never again");
}

#[test]
fn r33_a_drain_ends_at_its_limit_and_counts_what_is_left() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2, 3]);
    world.step(Input::Drain);
    world.pass(19_999);
    assert_eq!(world.drained, []);
    world.pass(1);
    let drained = &world.drained[0];
    assert_eq!((drained.outcome, drained.unacknowledged, drained.owed), (DrainOutcome::TimedOut, 3, 3));
}

#[test]
fn r33_only_what_the_bot_acknowledged_is_confirmed() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(5, 50);
    world.brings(&[5, 6]);
    world.step(Input::Drain);
    world.pass(20_000);
    assert!(world.poll.is_none() || world.query().offset == Some(5), "6 was never acknowledged");
}

#[test]
fn r34_a_drain_of_a_standby_is_over_at_once() {
    let mut world = World::new();
    world.ask(1, 30);
    world.step(Input::Drain);
    assert_eq!(world.drained[0].outcome, DrainOutcome::Nothing);
    world.lead(1);
    assert!(world.poll.is_some(), "and has changed nothing");
}

#[test]
fn r34_a_leader_whose_bot_never_polled_drains_at_once_and_polls_no_more() {
    let mut world = World::new();
    world.lead(1);
    world.step(Input::Drain);
    assert_eq!(world.drained[0].outcome, DrainOutcome::Nothing);
    world.ask(1, 30);
    world.lead(1);
    assert!(world.poll.is_none(), "the lease is on its way to somebody else");
}

#[test]
fn r36_draining_twice_is_draining_once() {
    let mut world = busy();
    world.pass(600);
    world.step(Input::Drain);
    world.pass(100);
    world.step(Input::Drain);
    world.pass(1300);
    assert_eq!(world.drained.len(), 1, "the edge tells everybody who waits");
    world.step(Input::Drain);
    assert_eq!(world.drained[1], world.drained[0]);
}

#[test]
fn r36_after_a_drain_only_a_later_epoch_polls() {
    let mut world = busy();
    world.pass(31_000);
    world.step(Input::Drain);
    world.lead(1);
    world.ask(2, 50);
    assert!(world.poll.is_none(), "a renewal on its way does not undo the drain");
    world.step(Input::Leadership(Leadership::Standby));
    world.lead(1);
    assert!(world.poll.is_none());
    world.lead(2);
    assert!(world.poll.is_some());
}

#[test]
fn r36_a_drain_whose_lease_ends_says_so() {
    let mut world = busy();
    world.lead_for(1, 1000);
    world.step(Input::Drain);
    world.pass(1000);
    assert_eq!(world.drained[0].outcome, DrainOutcome::FenceLost);
    assert!(!world.drained[0].confirmed);
}

#[test]
fn a_bot_that_dies_while_draining_ends_the_drain() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.step(Input::Connected(ConnectionId(1)));
    world.ask(1, 50);
    world.brings(&[1]);
    world.step(Input::Drain);
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(50);
    if world.poll.is_some() {
        world.brings(&[]);
    }
    assert_eq!(world.drained[0].outcome, DrainOutcome::BotGone);
}

fn fast() -> World {
    let mut world = World::with(Settings { ordering: Ordering::Fast, ..Settings::default() });
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2]);
    world
}

#[test]
fn r32_fast_hands_over_when_everything_is_acknowledged_and_tells_when_the_bot_has_finished() {
    let mut world = fast();
    world.step(Input::Drain);
    world.pass(500);
    assert_eq!(world.drained, [], "the batch is not acknowledged");
    world.ask(3, 50);
    assert_eq!(world.query().offset, Some(3), "at once, though its handlers are at work");
    world.brings(&[]);
    assert_eq!((world.drained[0].outcome, world.drained[0].owed), (DrainOutcome::Complete, 2));
    assert!(world.status().finishing);
    world.step(Input::Leadership(Leadership::Standby));
    world.pass(3000);
    world.call(100);
    world.call(100);
    assert!(world.status().finishing);
    world.pass(6999);
    assert!(world.status().finishing);
    world.pass(1);
    assert!(!world.status().finishing, "silent for twice its longest silence");
}

#[test]
fn r33_fast_does_not_wait_for_handlers_beyond_the_limit_of_the_drain() {
    let mut world = fast();
    world.step(Input::Drain);
    world.ask(3, 50);
    world.step(Input::Call(Call::Started { counts: true, began: world.now }));
    world.brings(&[]);
    world.step(Input::Leadership(Leadership::Standby));
    world.pass(19_999);
    assert!(world.status().finishing);
    world.pass(1);
    assert!(!world.status().finishing);
}

#[test]
fn r32_strict_has_finished_when_it_is_drained() {
    let mut world = busy();
    world.step(Input::Drain);
    world.pass(2000);
    world.brings(&[]);
    assert!(world.drained.len() == 1 && !world.status().finishing);
}

#[test]
fn r31_a_drain_that_is_taken_back_polls_on_under_the_same_epoch() {
    let mut world = busy();
    world.pass(31_000);
    world.step(Input::Drain);
    assert_eq!(world.drained.len(), 1);
    world.step(Input::Resume);
    assert!(world.poll.is_some() && world.status().leading == Some(1) && !world.status().draining);
    world.brings(&[2]);
    assert!(world.given(RequestId(2), 1));
}

#[test]
fn r31_a_drain_that_is_taken_back_before_its_end_is_none() {
    let mut world = busy();
    world.step(Input::Drain);
    world.pass(100);
    world.step(Input::Resume);
    assert!(world.poll.is_some() && world.drained.is_empty());
    world.brings(&[2]);
    world.ask(3, 50);
    world.step(Input::Drain);
    world.pass(20_000);
    assert!(world.poll.is_some(), "the second drain confirms");
}

/// The pod ends while a directed handover fails.
#[test]
fn r36_a_drain_that_two_asked_for_is_not_taken_back_by_one() {
    let mut world = busy();
    world.pass(31_000);
    world.step(Input::Drain);
    world.step(Input::Drain);
    world.step(Input::Resume);
    assert!(world.poll.is_none() && world.status().draining);
    world.step(Input::Resume);
    assert!(world.poll.is_some());
}

#[test]
fn r31_what_was_drained_is_taken_back_also_after_the_fence_had_passed() {
    let mut world = busy();
    world.lead_for(1, 40_000);
    world.pass(31_000);
    world.step(Input::Drain);
    world.pass(10_000);
    world.ask(2, 50);
    world.lead(1);
    assert!(world.poll.is_none());
    world.step(Input::Resume);
    assert!(world.poll.is_some());
}

#[test]
fn r31_a_terminating_gate_does_not_resume() {
    let mut world = busy();
    world.pass(31_000);
    world.step(Input::Drain);
    world.step(Input::Terminate);
    world.step(Input::Resume);
    world.ask(2, 50);
    assert!(world.poll.is_none());
}

#[test]
fn r32_a_bot_that_says_it_is_busy_is_waited_for() {
    let mut world = busy();
    world.step(Input::Busy);
    world.step(Input::Busy);
    world.pass(9000);
    world.step(Input::Drain);
    world.step(Input::Idle);
    world.pass(3000);
    assert!(world.drained.is_empty() && world.poll.is_none(), "one of two jobs is left");
    world.step(Input::Idle);
    assert!(world.poll.is_some() || !world.drained.is_empty());
}

#[test]
fn r32_a_bot_that_forgot_to_say_that_it_is_idle_is_idle_after_ten_minutes() {
    let mut world = busy();
    world.lead_for(1, 3_600_000);
    world.step(Input::Busy);
    world.pass(599_999);
    world.ask(2, 50);
    world.step(Input::Drain);
    assert_eq!(world.drained, []);
    world.pass(1);
    assert_eq!(world.drained[0].outcome, DrainOutcome::Complete);
}
