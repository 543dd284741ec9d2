//! A bot's wish to drop its pending updates.

use pollux_gate::core::{Input, Reply};
use pollux_gate::{Event, PendingUpdates, Settings};

use super::World;

fn policy(pending_updates: PendingUpdates) -> World {
    World::with(Settings { pending_updates, ..Settings::default() })
}

#[test]
fn r17_pass_through_lets_the_leaders_bot_drop_and_a_standbys_not() {
    let mut world = policy(PendingUpdates::PassThrough);
    let held = world.ask(-1, 30);
    assert_eq!(world.answered(held), Some(Reply::Empty));
    world.step(Input::WebhookUnwanted { drop: true });
    world.lead_for(1, 60_000);
    assert_eq!(
        (world.drops, world.deletes),
        (0, 0),
        "its predecessor's bot is at work: nothing is dropped at a takeover"
    );
    let asked = world.ask(-1, 0);
    assert_eq!(world.query().offset, Some(-1));
    world.brings(&[9]);
    assert!(world.given(asked, 1));
    world.step(Input::WebhookUnwanted { drop: true });
    assert_eq!((world.drops, world.deletes), (1, 1));
}

/// A bot asks when it starts, and then its gate is a standby's.
#[test]
fn r17_a_cold_start_fulfils_the_wish_of_a_bot_that_asked_before_it_led() {
    for by_webhook in [false, true] {
        let mut world = policy(PendingUpdates::ColdStart);
        if by_webhook {
            world.step(Input::WebhookUnwanted { drop: true });
        } else {
            world.ask(-1, 0);
        }
        world.ask(0, 30);
        world.step(Input::ColdStart { epoch: 3 });
        world.lead_for(3, 60_000);
        assert_eq!((world.drops, world.poll.is_none()), (1, true), "nothing of the old is delivered meanwhile");
        world.step(Input::WebhookDeleted(true));
        assert_eq!(world.query().offset, Some(0));
        world.brings(&[7]);
        world.ask(8, 30);
        let again = world.ask(-1, 0);
        assert_eq!(world.answered(again), Some(Reply::Empty), "a restart of the bot is no cold start");
        assert_eq!(world.events.last(), Some(&Event::Suppressed { method: "getUpdates" }));
    }
}

#[test]
fn r17_a_warm_start_keeps_what_waits() {
    let mut world = policy(PendingUpdates::ColdStart);
    world.ask(-1, 0);
    world.ask(0, 30);
    world.step(Input::ColdStart { epoch: 2 });
    world.lead_for(3, 60_000);
    assert_eq!((world.drops, world.query().offset), (0, Some(0)));
    assert_eq!(world.events, [Event::Suppressed { method: "getUpdates" }]);
}

#[test]
fn r17_a_drop_that_fails_does_not_stop_the_bot() {
    let mut world = policy(PendingUpdates::ColdStart);
    world.ask(-1, 0);
    world.ask(0, 30);
    world.step(Input::ColdStart { epoch: 1 });
    world.lead_for(1, 60_000);
    world.step(Input::WebhookDeleted(false));
    assert_eq!(world.query().offset, Some(0));
}

#[test]
fn r17_a_drop_that_is_not_answered_stops_the_bot_for_ten_seconds_at_most() {
    let mut world = policy(PendingUpdates::ColdStart);
    world.ask(-1, 0);
    world.ask(0, 30);
    world.step(Input::ColdStart { epoch: 1 });
    world.lead_for(1, 60_000);
    world.pass(9999);
    assert!(world.poll.is_none());
    world.pass(1);
    assert_eq!(world.query().offset, Some(0));
}
