//! Whether the bot is there, and the first call that it makes.

use std::time::{Duration, Instant};

use http::StatusCode;
use pollux_botapi::{Fault, FaultKind};
use pollux_gate::{BotIdentity, Event, Leadership, Settings, TokenState};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::support::{LIMIT, Rig, TOKEN, emulator, event, polls, push};

fn hurried() -> Settings {
    Settings { get_me_patience: Duration::from_millis(600), ..Settings::default() }
}

#[tokio::test]
async fn r14b_a_killed_bot_is_noticed_at_once() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let mut events = rig.gate.events();
    let asking = rig.bot().await.ask(0, 30);
    polls(&emulator, 1).await;
    asking.abort();
    event(&mut events, |event| *event == Event::BotGone).await;
    rig.until("gone", |status| !status.bot_alive && !status.bot_ready && !status.bot_polling).await;
    let again = rig.bot().await.ask(0, 30);
    event(&mut events, |event| *event == Event::BotBack).await;
    rig.until("back", |status| status.bot_alive && status.bot_ready && status.bot_polling).await;
    again.abort();
}

#[tokio::test]
async fn r14b_a_bot_with_one_connection_that_is_killed_between_two_requests_is_noticed_at_once() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut events = rig.gate.events();
    let mut bot = rig.bot().await;
    for offset in 1..3 {
        bot.updates(offset, 0).await;
    }
    bot.die().await;
    event(&mut events, |event| *event == Event::BotGone).await;
}

#[tokio::test]
async fn r14b_a_bot_with_a_connection_per_request_is_not_taken_for_dead() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut events = rig.gate.events();
    for offset in 1..8 {
        let mut bot = rig.bot().await;
        bot.updates(offset, 0).await;
        bot.die().await;
        // The client's own pause, longer than the time after which a killed process is taken for dead.
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    // Told last: whatever came before it would have been told too.
    rig.bot().await.call("logOut", "").await;
    let first = event(&mut events, |_| true).await;
    assert_eq!(first, Event::Suppressed { method: "logOut" });
}

#[tokio::test]
async fn r14_a_deaf_bot_is_no_candidate_and_not_ready() {
    let emulator = emulator().await;
    let settings = Settings { poll_gap: Duration::from_millis(700), ..Settings::default() };
    let rig = Rig::with(&emulator.url(), settings).await;
    let mut events = rig.gate.events();
    let mut bot = rig.bot().await;
    bot.updates(1, 0).await;
    rig.until("ready", |status| status.bot_ready).await;
    event(&mut events, |event| *event == Event::BotDeaf).await;
    rig.until("deaf", |status| status.deaf && !status.bot_ready && !status.bot_polling && status.bot_alive).await;
    let asking = bot.ask(2, 30);
    rig.until("well", |status| !status.deaf && status.bot_ready).await;
    asking.abort();
}

#[tokio::test]
async fn r16_the_gate_knows_who_the_bot_is_before_the_bot_asks() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.until("accepted", |status| status.token == TokenState::Accepted).await;
    let known = rig.gate.status().borrow().bot.clone();
    assert_eq!(known, Some(BotIdentity { id: 4242, username: "echo_bot".to_owned() }));
}

#[tokio::test]
async fn r16_a_failing_get_me_is_tried_again() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.until("known", |status| status.bot.is_some()).await;
    for kind in [FaultKind::Html(502), FaultKind::Reset, FaultKind::Status(500)] {
        emulator.fault(TOKEN, Fault::new("getMe", kind)).unwrap();
    }
    let before = emulator.requests(TOKEN).unwrap().len();
    let answer = rig.bot().await.call("getMe", "").await;
    assert_eq!((answer.status, answer.json()["result"]["username"].clone()), (StatusCode::OK, "echo_bot".into()));
    assert_eq!(emulator.requests(TOKEN).unwrap().len() - before, 4);
}

#[tokio::test]
async fn r16_a_get_me_that_keeps_failing_is_answered_from_memory() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), hurried()).await;
    rig.until("known", |status| status.bot.is_some()).await;
    for kind in [FaultKind::Html(502), FaultKind::Hang] {
        emulator.fault(TOKEN, Fault::new("getMe", kind).forever()).unwrap();
        let answer = rig.bot().await.call("getMe", "").await;
        assert_eq!(answer.json()["result"]["id"], 4242);
        emulator.clear_faults(TOKEN).unwrap();
    }
}

#[tokio::test]
async fn r16_without_a_memory_the_failure_is_json() {
    let emulator = emulator().await;
    emulator.fault(TOKEN, Fault::new("getMe", FaultKind::Html(502)).forever()).unwrap();
    let rig = Rig::with(&emulator.url(), hurried()).await;
    let answer = rig.bot().await.call("getMe", "").await;
    assert_eq!((answer.status, answer.json()["error_code"].clone()), (StatusCode::BAD_GATEWAY, 502.into()));
}

#[tokio::test]
async fn r16_r26_a_refused_token_is_told_to_get_me() {
    let emulator = pollux_botapi::Emulator::start(pollux_botapi::Options::default()).await.unwrap();
    let rig = Rig::new(&emulator.url()).await;
    let answer = rig.bot().await.call("getMe", "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "the bot then exits with its own clear message");
    assert_eq!(answer.json()["ok"], false);
}

#[tokio::test]
async fn r20_a_leader_knows_how_many_updates_wait_and_how_old_a_message_is_when_it_is_given() {
    let emulator = emulator().await;
    let settings = Settings { pending_check: Duration::from_millis(50), ..Settings::default() };
    let rig = Rig::with(&emulator.url(), settings).await;
    let mut registry = Registry::default();
    rig.gate.register_metrics(&mut registry);
    let text = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    push(&emulator, 3);
    rig.lead(1);
    let deadline = Instant::now() + LIMIT;
    while !text().contains("pollux_agent_pending_updates 3\n") {
        assert!(Instant::now() < deadline, "{}", text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.bot().await.updates(0, 10).await;
    assert!(text().contains("pollux_agent_update_age_seconds_count 3\n"), "{}", text());
    rig.gate.set_leadership(Leadership::Standby);
    while !text().contains("pollux_agent_pending_updates 0\n") {
        assert!(Instant::now() < deadline, "a standby does not ask: {}", text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
