//! A webhook that was left set, and the updates that a bot would rather not see (R18).

use std::time::Duration;

use pollux_botapi::{Emulator, Fault, FaultKind};
use pollux_gate::{Event, PendingUpdates, Settings};

use crate::support::{LIMIT, Rig, TOKEN, emulator, event, push};

fn pass_through() -> Settings {
    Settings { pending_updates: PendingUpdates::PassThrough, ..Settings::default() }
}

fn deletions(emulator: &Emulator) -> usize {
    let requests = emulator.requests(TOKEN).unwrap();
    requests.iter().filter(|request| request.method.eq_ignore_ascii_case("deleteWebhook")).count()
}

async fn leader(emulator: &Emulator, settings: Settings) -> Rig {
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.lead(1);
    rig.until("leading", |status| status.leading == Some(1)).await;
    rig
}

#[tokio::test]
async fn r18_a_deletion_that_fails_again_and_again_is_tried_until_it_works() {
    let emulator = emulator().await;
    let rig = leader(&emulator, Settings::default()).await;
    for _ in 0..6 {
        emulator.fault(TOKEN, Fault::new("deleteWebhook", FaultKind::Html(502))).unwrap();
    }
    let mut bot = rig.bot().await;
    let answer = bot.call("deleteWebhook", "").await;
    assert_eq!(answer.json()["result"], true);
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 7).await, "{}", deletions(&emulator));
    // Each call of the bot is one deletion, so the seventh was the last one of the first call.
    bot.call("deleteWebhook", "").await;
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 8).await);
}

#[tokio::test]
async fn r18_a_deletion_ends_with_the_leadership() {
    let emulator = emulator().await;
    let rig = leader(&emulator, Settings::default()).await;
    emulator.fault(TOKEN, Fault::new("deleteWebhook", FaultKind::Hang)).unwrap();
    rig.bot().await.call("deleteWebhook", "").await;
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 1).await);
    rig.gate.set_leadership(pollux_gate::Leadership::Standby);
    rig.until("standby", |status| status.leading.is_none()).await;
    rig.lead(2);
    rig.until("leading", |status| status.leading == Some(2)).await;
    rig.bot().await.call("deleteWebhook", "").await;
    let again = emulator.until(Duration::from_secs(4), |emulator| deletions(emulator) == 2).await;
    assert!(again, "the one before waits for its own time-out");
}

#[tokio::test]
async fn r18_a_drop_is_not_passed_on_by_default() {
    let emulator = emulator().await;
    let rig = leader(&emulator, Settings::default()).await;
    let mut events = rig.gate.events();
    let ids = push(&emulator, 3);
    let mut bot = rig.bot().await;
    bot.call("deleteWebhook", "drop_pending_updates=true").await;
    event(&mut events, |event| *event == Event::Suppressed { method: "deleteWebhook" }).await;
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 1).await);
    assert_eq!(bot.updates(0, 10).await.ids(), ids);
}

#[tokio::test]
async fn r18_a_bot_that_may_drop_its_updates_has_dropped_them_when_it_is_answered() {
    let emulator = emulator().await;
    let rig = leader(&emulator, pass_through()).await;
    emulator.fault(TOKEN, Fault::new("deleteWebhook", FaultKind::Html(502))).unwrap();
    let mut bot = rig.bot().await;
    let mut last = Vec::new();
    for (method, form) in [("deleteWebhook", "drop_pending_updates=1"), ("setWebhook", "url=&drop_pending_updates=yes")]
    {
        push(&emulator, 3);
        assert_eq!(bot.call(method, form).await.json()["result"], true, "{method}");
        last = push(&emulator, 1);
        assert_eq!(bot.updates(0, 10).await.ids(), last, "{method}");
    }
    bot.call("deleteWebhook", "").await;
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 4).await);
    assert_eq!(bot.updates(0, 10).await.ids(), last, "a drop is not remembered");
}

#[tokio::test]
async fn r18_a_drop_that_telegram_does_not_answer_holds_the_bot_for_four_seconds_at_most() {
    let emulator = emulator().await;
    let rig = leader(&emulator, pass_through()).await;
    emulator.fault(TOKEN, Fault::new("deleteWebhook", FaultKind::Hang)).unwrap();
    let answer = rig.bot().await.call("deleteWebhook", "drop_pending_updates=true").await;
    assert_eq!(answer.json()["result"], true);
    assert!(answer.took < Duration::from_millis(4900), "{:?}", answer.took);
}

#[tokio::test]
async fn r18_what_a_standbys_bot_wanted_dropped_is_not_dropped_when_it_leads() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), pass_through()).await;
    let mut events = rig.gate.events();
    let ids = push(&emulator, 2);
    let mut bot = rig.bot().await;
    bot.call("deleteWebhook", "drop_pending_updates=true").await;
    event(&mut events, |event| *event == Event::Suppressed { method: "deleteWebhook" }).await;
    rig.lead(1);
    rig.until("leading", |status| status.leading == Some(1)).await;
    bot.call("deleteWebhook", "").await;
    assert!(emulator.until(LIMIT, |emulator| deletions(emulator) == 1).await);
    assert_eq!(bot.updates(0, 10).await.ids(), ids);
}
