//! What becomes of a bot's wish to drop its pending updates (R17), at a Telegram that obeys.

use pollux_gate::{PendingUpdates, Settings};

use crate::support::{LIMIT, Rig, TOKEN, emulator, push};

fn policy(pending_updates: PendingUpdates) -> Settings {
    Settings { pending_updates, ..Settings::default() }
}

#[tokio::test]
async fn r17_by_default_nothing_is_dropped() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let ids = push(&emulator, 3);
    let mut bot = rig.bot().await;
    assert_eq!(bot.updates(-1, 0).await.ids(), [0_i64; 0]);
    bot.call("deleteWebhook", "drop_pending_updates=true").await;
    assert_eq!(bot.updates(0, 10).await.ids(), ids);
}

#[tokio::test]
async fn r17_pass_through_lets_a_leaders_bot_skip_what_waits() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), policy(PendingUpdates::PassThrough)).await;
    let ids = push(&emulator, 3);
    let mut bot = rig.bot().await;
    assert_eq!(bot.updates(-1, 0).await.ids(), [0_i64; 0], "a standby's bot skips nothing");
    rig.lead(1);
    rig.until("leader", |status| status.leading == Some(1)).await;
    assert_eq!(bot.updates(-1, 0).await.ids(), ids[2..]);
    let later = push(&emulator, 1);
    assert_eq!(bot.updates(ids[2] + 1, 10).await.ids(), later);
}

/// The bot asks as it starts, before its gate leads. What waits is dropped before the first poll.
#[tokio::test]
async fn r17_a_cold_start_drops_what_waits_for_a_bot_that_wants_so_and_a_warm_one_does_not() {
    for (cold, ask) in [(true, "getUpdates"), (true, "deleteWebhook"), (false, "deleteWebhook")] {
        let emulator = emulator().await;
        let rig = Rig::with(&emulator.url(), policy(PendingUpdates::ColdStart)).await;
        let ids = push(&emulator, 3);
        let mut bot = rig.bot().await;
        let form = if ask == "getUpdates" { "offset=-1" } else { "drop_pending_updates=True" };
        assert_eq!(bot.call(ask, form).await.json()["ok"], true);
        let asking = bot.ask(0, 30);
        rig.until("polling", |status| status.bot_polling).await;
        if cold {
            rig.gate.cold_start(7);
        }
        rig.lead(7);
        if !cold {
            assert_eq!(asking.await.unwrap().1.ids(), ids);
            continue;
        }
        let polled = emulator.until(LIMIT, |emulator| !emulator.polls(TOKEN).unwrap().is_empty()).await;
        assert!(polled, "it polls when they are dropped");
        let later = push(&emulator, 1);
        let (_, answer) = asking.await.unwrap();
        assert_eq!(answer.ids(), later);
    }
}
