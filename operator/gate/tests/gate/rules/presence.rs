//! Whether the bot is there.

use std::time::Duration;

use pollux_gate::Event;
use pollux_gate::core::{Call, Closed, ConnectionId, Input};

use super::World;

fn idle(ms: u64, reused: bool) -> Closed {
    Closed::Idle { since: Duration::from_millis(ms), reused }
}

#[test]
fn r14_a_bot_that_neither_polls_nor_calls_is_deaf() {
    let mut world = World::new();
    let request = world.ask(1, 1);
    world.pass(1000);
    assert!(world.answered(request).is_some());
    assert!(world.status().bot_polling, "it is between two polls");
    world.pass(500);
    assert!(!world.status().bot_polling, "it asks no more: not a candidate");
    world.pass(30_000);
    world.call(500);
    world.pass(59_999);
    assert!(!world.status().deaf, "it called something meanwhile");
    world.pass(1);
    assert!(world.status().deaf && !world.status().bot_ready);
    assert_eq!(world.events, [Event::BotDeaf]);
    world.ask(1, 1);
    assert!(!world.status().deaf && world.status().bot_ready && world.status().bot_polling);
}

#[test]
fn r14_a_health_check_by_get_me_is_no_sign_of_a_bot_that_listens() {
    let mut world = World::new();
    let request = world.ask(1, 1);
    world.pass(1000);
    assert!(world.answered(request).is_some());
    for _ in 0..2 {
        world.pass(30_000);
        world.step(Input::Call(Call::Started { counts: false, began: world.now }));
        world.step(Input::Call(Call::Ended { counts: false, began: world.now }));
    }
    assert!(world.status().deaf);
}

#[test]
fn r14_a_long_call_is_not_deafness() {
    let mut world = World::new();
    world.ask(1, 0);
    world.step(Input::Call(Call::Started { counts: true, began: world.now }));
    world.pass(600_000);
    assert!(!world.status().deaf);
}

#[test]
fn r14b_a_process_whose_connections_are_all_closed_is_gone() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    let request = world.ask(1, 30);
    world.step(Input::Abandoned(request));
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(49);
    assert_eq!(world.events, []);
    assert!(world.status().bot_missing && world.status().bot_alive, "a successor is looked for meanwhile");
    world.pass(1);
    assert_eq!(world.events, [Event::BotGone]);
    assert!(!world.status().bot_alive && !world.status().bot_ready && !world.status().bot_polling);
    world.step(Input::Connected(ConnectionId(2)));
    assert_eq!(world.events, [Event::BotGone, Event::BotBack]);
    assert!(!world.status().bot_missing);
}

#[test]
fn r14b_a_pool_that_is_closed_at_once_is_a_death() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    world.step(Input::Connected(ConnectionId(2)));
    world.step(Input::Disconnected(ConnectionId(1), idle(20_000, true)));
    world.step(Input::Disconnected(ConnectionId(2), idle(7_000, true)));
    world.pass(50);
    assert_eq!(world.events, [Event::BotGone]);
}

/// A handler makes two calls side by side and is silent for longer than the client keeps their connections: a handover without
/// a drain would have its update answered twice.
#[test]
fn r14b_connections_that_expire_together_are_not_a_death() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    world.step(Input::Connected(ConnectionId(2)));
    world.step(Input::Disconnected(ConnectionId(1), idle(5_010, true)));
    world.step(Input::Disconnected(ConnectionId(2), idle(5_000, true)));
    world.pass(5_000);
    assert_eq!(world.events, []);
}

#[test]
fn r14b_a_bot_with_one_connection_that_dies_while_it_handles_is_gone() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    let request = world.ask(1, 1);
    world.pass(1000);
    assert!(world.answered(request).is_some());
    world.step(Input::Disconnected(ConnectionId(1), idle(5, true)));
    world.pass(50);
    assert_eq!(world.events, [Event::BotGone]);
}

#[test]
fn r14b_a_connection_that_was_idle_for_too_long_is_not_a_death() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    let request = world.ask(1, 1);
    world.pass(1000);
    assert!(world.answered(request).is_some());
    world.pass(5000);
    world.step(Input::Disconnected(ConnectionId(1), idle(5000, true)));
    world.pass(20_000);
    assert_eq!(world.events, [], "its handler may still be at work");
}

#[test]
fn r14b_a_client_with_a_connection_per_request_is_not_taken_for_dead() {
    let mut world = World::new();
    for connection in 1..20 {
        world.step(Input::Connected(ConnectionId(connection)));
        let request = world.ask(connection.cast_signed(), 1);
        world.pass(1000);
        assert!(world.answered(request).is_some());
        world.step(Input::Disconnected(ConnectionId(connection), idle(0, false)));
        world.pass(700);
    }
    assert_eq!(world.events, []);
}

/// Ten handlers at once, each with a connection of its own, on a machine that has no time: seen with telegraf. Taken for a
/// death it cost a handover without a drain, and ten messages were answered twice.
#[test]
fn r14b_connections_of_single_requests_that_are_closed_late_are_not_a_death() {
    let mut world = World::new();
    for connection in 1..=10 {
        world.step(Input::Connected(ConnectionId(connection)));
    }
    for connection in 1..=10 {
        world.step(Input::Disconnected(ConnectionId(connection), idle(250, false)));
    }
    world.pass(5000);
    assert_eq!(world.events, []);
}

#[test]
fn r14b_a_pause_that_was_no_danger_teaches_nothing() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    world.step(Input::Disconnected(ConnectionId(1), idle(0, false)));
    world.pass(700);
    world.step(Input::Connected(ConnectionId(2)));
    world.step(Input::Disconnected(ConnectionId(2), Closed::Interrupted));
    world.pass(50);
    assert_eq!(world.events, [Event::BotGone]);
}

#[test]
fn r14b_a_pause_from_which_the_bot_came_back_is_learned() {
    let mut world = World::new();
    for connection in 1..=2 {
        world.step(Input::Connected(ConnectionId(connection)));
        world.step(Input::Disconnected(ConnectionId(connection), Closed::Interrupted));
        world.pass(200);
    }
    assert_eq!(world.events, [Event::BotGone, Event::BotBack], "twice 200 ms have not passed the second time");
    world.pass(200);
    assert_eq!(world.events.last(), Some(&Event::BotGone));
}

/// Seen with python-telegram-bot: its container was back after 0.77 s, and its next death was noticed after 1.54 s.
#[test]
fn r14b_a_quick_restart_is_not_a_pause_and_teaches_nothing() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(770);
    world.step(Input::Connected(ConnectionId(2)));
    world.step(Input::Disconnected(ConnectionId(2), Closed::Interrupted));
    world.pass(50);
    assert_eq!(world.events, [Event::BotGone, Event::BotBack, Event::BotGone]);
}

/// A bot that comes up again, asks who it is, and hangs or ends in peace: its leader kept the lease for ever, although
/// somebody else was ready.
#[test]
fn r14_a_bot_that_came_back_and_never_asks_again_is_deaf() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    world.ask(1, 30);
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(30_000);
    assert_eq!(world.events, [Event::BotGone], "the dead are not deaf");
    world.step(Input::Connected(ConnectionId(2)));
    world.step(Input::Disconnected(ConnectionId(2), idle(0, false)));
    world.pass(59_999);
    assert!(!world.status().deaf);
    world.pass(1);
    assert!(world.status().deaf);
    assert_eq!(world.events, [Event::BotGone, Event::BotBack, Event::BotDeaf]);
    world.pass(600_000);
    assert_eq!(world.events.len(), 3, "it is said once");
}

#[test]
fn r15_readiness_latches_and_a_restart_clears_it() {
    let mut world = World::new();
    world.step(Input::Connected(ConnectionId(1)));
    assert!(!world.status().bot_ready);
    world.ask(1, 1);
    world.pass(20_000);
    assert!(world.status().bot_ready, "a long handler");
    world.step(Input::Disconnected(ConnectionId(1), Closed::Interrupted));
    world.pass(100);
    assert!(!world.status().bot_ready);
}
