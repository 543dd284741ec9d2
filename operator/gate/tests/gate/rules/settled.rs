//! Delivery `Settled`: Telegram is told only what the bot is surely through with. And the bound on what it is not through with.

use std::time::Duration;

use pollux_gate::core::{Call, Closed, ConnectionId, Input, Reply};
use pollux_gate::{Delivery, DrainOutcome, Ordering, Settings};

use super::World;

fn settings() -> Settings {
    Settings { delivery: Delivery::Settled, ..Settings::default() }
}

/// A leader whose bot was given 1 to 3, has acknowledged them and answered each.
fn answered() -> World {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2, 3]);
    world.ask(4, 50);
    for _ in 0..3 {
        world.call(10);
    }
    world
}

#[test]
fn r28_what_is_unsettled_is_not_confirmed_and_what_is_new_is_delivered() {
    let mut world = answered();
    world.pass(600 - 30);
    assert_eq!((world.query().offset, world.query().timeout_seconds), (Some(1), 0));
    assert_eq!(world.query().limit, 23, "three that it has, and a batch");
    world.brings(&[1, 2, 3]);
    assert!(world.poll.is_none());
    world.pass(599);
    assert!(world.poll.is_none(), "below half a second Telegram would give one update only");
    world.pass(1);
    world.brings(&[1, 2, 3, 4, 5]);
    let (_, reply) = *world.answers.last().unwrap();
    assert_eq!(reply, Reply::Updates { skip: 3, take: 2 });
}

#[test]
fn r28_what_is_settled_is_confirmed_by_an_ordinary_long_poll() {
    let mut world = answered();
    let begun = world.now;
    let mut polls = 0;
    while world.query_offset() != Some(4) {
        if world.poll.is_some() {
            polls += 1;
            world.brings(&[1, 2, 3]);
        }
        world.pass(10);
    }
    assert_eq!(world.now - begun + Duration::from_millis(30), Duration::from_secs(3), "after the delivery");
    assert!((4..=5).contains(&polls), "{polls}: at most 1.7 a second");
    assert!(world.query().timeout_seconds >= 10);
}

#[test]
fn r28_an_open_call_keeps_its_update_unsettled_and_a_later_one_does_not() {
    let mut world = answered();
    world.pass(1000);
    let began = world.now;
    world.step(Input::Call(Call::Started { counts: true, began }));
    let poll = |world: &mut World| {
        if world.poll.is_some() {
            world.brings(&[1, 2, 3]);
        }
        world.pass(650);
        world.query_offset()
    };
    while world.now - began < Duration::from_secs(10) {
        assert_ne!(poll(&mut world), Some(4), "it may be the handler's");
    }
    world.step(Input::Call(Call::Ended { counts: true, began }));
    if world.query_offset() == Some(1) {
        world.brings(&[1, 2, 3]);
    }
    assert_eq!(world.query_offset(), Some(4));
    world.brings(&[4]);
    world.ask(5, 50);
    world.pass(4000);
    let began = world.now;
    world.step(Input::Call(Call::Started { counts: true, began }));
    world.pass(100);
    world.step(Input::Call(Call::Ended { counts: true, began }));
    let upload = world.now;
    world.step(Input::Call(Call::Started { counts: true, began: upload }));
    if world.poll.is_some() {
        world.brings(&[4]);
    }
    assert_eq!(world.query_offset(), Some(5), "that call began more than three seconds after the delivery");
}

#[test]
fn r28_a_one_worker_queue_is_unsettled_to_its_end() {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2, 3, 4]);
    world.ask(5, 50);
    for done in 1..=4_i64 {
        for _ in 0..4 {
            world.pass(600);
            if world.poll.is_some() {
                assert!(world.query().offset <= Some(done), "{done} is at work: {:?}", world.query());
                world.brings(&[]);
            }
        }
        world.call(100);
    }
    world.pass(1000);
    if world.query_offset() == Some(4) {
        world.brings(&[4]);
        world.pass(2000);
    }
    assert_eq!(world.query_offset(), Some(5));
}

/// The first message that a bot ever gets: nobody knows how long its handlers are silent.
#[test]
fn r28_the_first_silent_handler_of_a_bot_has_a_whole_drain() {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.ask(2, 50);
    let delivered = world.now;
    while world.query_offset() != Some(2) {
        if world.poll.is_some() {
            world.brings(&[1]);
        }
        world.pass(100);
    }
    let waited = world.now - delivered;
    let drain = settings().drain_timeout;
    assert!((drain..drain + Duration::from_secs(1)).contains(&waited), "confirmed after {waited:?}");
}

#[test]
fn r28_a_bot_that_answers_nothing_is_confirmed_and_goes_on() {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    let mut next = 1;
    for _ in 0..3 {
        world.ask(next, 50);
        world.brings(&[next]);
        next += 1;
        world.ask(next, 50);
        for _ in 0..35 {
            world.pass(600);
            if world.query_offset() == Some(next - 1) {
                world.brings(&[next - 1]);
            }
        }
        assert_eq!(world.query_offset(), Some(next), "nobody waits for a handler for longer than a drain");
    }
}

#[test]
fn r28_a_full_window_is_not_the_end() {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    let (mut next, mut head) = (1, 1);
    let begun = world.now;
    world.ask(next, 50);
    while next < 1001 {
        assert!(world.now - begun < Duration::from_secs(60), "{next} in a minute");
        if let Some(offset) = world.query_offset() {
            head = head.max(offset);
            let last = (head + i64::from(world.query().limit)).min(2000);
            let ids: Vec<i64> = (head..last).collect();
            world.brings(&ids);
            if last > next {
                next = last;
                world.ask(next, 50);
            }
        }
        world.pass(50);
    }
}

#[test]
fn r27_no_more_updates_are_given_than_may_be_unsettled() {
    let mut world = World::with(Settings { max_unsettled: Some(3), ..Settings::default() });
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    assert_eq!(world.query().limit, 3);
    world.brings(&[1, 2]);
    world.ask(3, 50);
    assert_eq!(world.query().limit, 1);
    world.brings(&[3]);
    world.ask(4, 50);
    assert!(world.poll.is_none(), "three are at work");
    for _ in 0..3 {
        world.call(50);
    }
    world.pass(2849);
    assert!(world.poll.is_none());
    world.pass(1);
    assert_eq!((world.query().offset, world.query().limit), (Some(4), 3), "delivered three seconds ago and answered");
}

#[test]
fn r27_a_bot_that_answers_nothing_is_not_starved_by_the_bound() {
    let mut world = World::with(Settings { max_unsettled: Some(1), ..Settings::default() });
    world.lead_for(1, 3_600_000);
    for id in 1..5 {
        world.ask(id, 50);
        assert!(world.poll.is_some(), "{id}");
        world.brings(&[id]);
        world.pass(3000);
    }
}

#[test]
fn r29_a_restarted_bot_gets_what_is_unsettled_again() {
    let mut world = answered();
    world.pass(570);
    world.brings(&[1, 2, 3]);
    world.step(Input::Connected(ConnectionId(1)));
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(60);
    world.step(Input::Connected(ConnectionId(2)));
    let again = world.ask(0, 50);
    assert_eq!(world.query_offset(), Some(0));
    world.brings(&[1, 2, 3]);
    assert!(world.given(again, 3));
    world.ask(4, 50);
    world.pass(2000);
    assert_eq!(world.query_offset(), Some(1), "its time begins anew");
}

#[test]
fn r32_a_complete_drain_confirms_everything() {
    let mut world = answered();
    world.step(Input::Drain);
    world.pass(2000);
    assert_eq!((world.query_offset(), world.query().limit), (Some(4), 1), "the bot was silent: there is nothing left");
    world.brings(&[]);
    let drained = &world.drained[0];
    assert_eq!((drained.outcome, drained.confirmed, drained.unacknowledged), (DrainOutcome::Complete, true, 0));
}

#[test]
fn r33_a_drain_that_ran_out_of_time_confirms_only_what_is_settled() {
    let mut world = World::with(Settings { drain_timeout: Duration::from_secs(1), ..settings() });
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1, 2]);
    world.call(10);
    world.call(10);
    world.pass(2480);
    world.ask(3, 50);
    world.brings(&[1, 2, 3, 4]);
    world.ask(5, 50);
    world.call(10);
    world.step(Input::Call(Call::Started { counts: true, began: world.now }));
    world.step(Input::Drain);
    world.pass(1000);
    assert_eq!(world.query_offset(), Some(3), "3 and 4 are younger than three seconds: repeated, not lost");
    world.brings(&[3]);
    let drained = &world.drained[0];
    assert_eq!((drained.outcome, drained.confirmed, drained.unacknowledged), (DrainOutcome::TimedOut, true, 2));
}

#[test]
fn r33_of_a_dead_bot_only_what_is_settled_is_confirmed() {
    let mut world = World::with(settings());
    world.lead_for(1, 3_600_000);
    world.step(Input::Connected(ConnectionId(1)));
    world.ask(1, 50);
    world.brings(&[1, 2]);
    let held = world.ask(3, 50);
    world.step(Input::Drain);
    world.step(Input::Abandoned(held));
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(100);
    assert!(world.query_offset().is_none_or(|offset| offset <= 1), "{:?}", world.poll);
    if world.poll.is_some() {
        world.brings(&[1]);
    }
    assert_eq!((world.drained[0].outcome, world.drained[0].unacknowledged), (DrainOutcome::BotGone, 2));
}

#[test]
fn fast_ordering_waits_until_everything_is_settled() {
    let mut world = World::with(Settings { ordering: Ordering::Fast, ..settings() });
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.ask(2, 50);
    world.call(10);
    world.step(Input::Drain);
    world.pass(1989);
    assert_eq!((world.drained.len(), world.poll.is_none()), (0, true), "a crash must not lose it");
    world.pass(1001);
    assert_eq!(world.query_offset(), Some(2));
}

#[test]
fn a_change_of_mode_under_load_is_obeyed_at_once() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 50);
    world.brings(&[1]);
    world.step(Input::Settings(settings()));
    world.ask(2, 50);
    assert_eq!(world.query_offset(), Some(2), "what was delivered before is acknowledged as it was promised then");
    world.brings(&[2]);
    world.ask(3, 50);
    world.pass(600);
    assert_eq!(world.query_offset(), Some(2));
    world.step(Input::Settings(Settings::default()));
    world.brings(&[2]);
    assert_eq!(world.query_offset(), Some(3));
}
