//! What is kept, for how long, and what a bot gets without asking.

use std::time::Duration;

use crate::common::{Client, PATIENCE, TOKEN, call, emulator, get};
use pollux_botapi::{Emulator, Kind, Push, Removal};
use serde_json::json;

const WINDOW: Duration = Duration::from_secs(5);

fn push(emulator: &Emulator, kind: Kind) -> Vec<i32> {
    emulator.push(TOKEN, Push { kind, ..Push::default() }).expect("bot")
}

async fn advance(emulator: &Emulator, seconds: f64) {
    let body = json!({"advance_seconds": seconds}).to_string();
    let mut admin = Client::connect(&emulator.admin_url()).await;
    assert_eq!(admin.post("/clock", "application/json", &body).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn each_type_is_kept_as_long_as_its_own_lifetime() {
    for kind in Kind::ALL {
        let emulator = emulator().await;
        call(&emulator.url(), "getUpdates", &json!({"allowed_updates": [kind.name()]}).to_string()).await;
        assert_eq!(push(&emulator, kind).len(), 1, "{kind:?}");
        let lifetime = match kind {
            Kind::InlineQuery => 30.0,
            Kind::CallbackQuery | Kind::ShippingQuery | Kind::PreCheckoutQuery => 150.0,
            Kind::ChosenInlineResult => 600.0,
            _ => 86_400.0,
        };
        advance(&emulator, lifetime - 5.0).await;
        let answer = call(&emulator.url(), "getUpdates", r#"{"offset":1}"#).await;
        let update = &answer.json()["result"][0];
        assert!(update[kind.name()].is_object(), "{kind:?} is still there: {answer:?}");
        advance(&emulator, 6.0).await;
        assert!(call(&emulator.url(), "getUpdates", r#"{"offset":2}"#).await.ids().is_empty(), "{kind:?} is gone");
        let ledger = emulator.ledger(TOKEN).expect("bot");
        assert_eq!(ledger.updates[0].removed.as_ref().map(|r| r.why), Some(Removal::Expired), "{kind:?}");
    }
}

#[tokio::test]
async fn moving_the_clock_ends_a_long_poll_and_keeps_the_records_in_real_time() {
    let emulator = emulator().await;
    let url = emulator.url();
    let poll = tokio::spawn(async move { call(&url, "getUpdates", r#"{"timeout":50}"#).await });
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").len() == 1).await);
    advance(&emulator, 51.0).await;
    assert!(poll.await.expect("no panic").ids().is_empty());
    let silence = emulator.bot_verdict(TOKEN, WINDOW).expect("bot").longest_silence;
    assert!(silence < PATIENCE, "{silence:?}");
    let before = emulator.now();
    push(&emulator, Kind::Message);
    advance(&emulator, 90_000.0).await;
    let date = {
        push(&emulator, Kind::Message);
        call(&emulator.url(), "getUpdates", r#"{"offset":3}"#).await.json()["result"][0]["message"]["date"].as_i64()
    };
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_secs() as i64;
    assert!(date.is_some_and(|date| date - real >= 90_000), "messages are dated by the moved clock");
    assert!(emulator.now() - before < PATIENCE, "records are not");
}

#[tokio::test]
async fn members_and_reactions_are_off_until_a_list_names_them_and_the_list_stays() {
    let emulator = emulator().await;
    let off = [Kind::ChatMember, Kind::MessageReaction, Kind::MessageReactionCount];
    for kind in Kind::ALL {
        assert_eq!(push(&emulator, kind).is_empty(), off.contains(&kind), "{kind:?}");
    }
    let list = json!({"allowed_updates": ["chat_member", "message_reaction"]});
    call(&emulator.url(), "getUpdates", &list.to_string()).await;
    call(&emulator.url(), "getUpdates", "{}").await;
    assert_eq!((push(&emulator, Kind::ChatMember).len(), push(&emulator, Kind::Message).len()), (1, 0));
    let info = call(&emulator.url(), "getWebhookInfo", "{}").await.json();
    assert_eq!(info["result"]["allowed_updates"], json!(["chat_member", "message_reaction"]));
    call(&emulator.url(), "getUpdates", r#"{"allowed_updates":[]}"#).await;
    assert_eq!((push(&emulator, Kind::ChatMember).len(), push(&emulator, Kind::Message).len()), (0, 1));
    let verdict = emulator.bot_verdict(TOKEN, WINDOW).expect("bot");
    assert_eq!((verdict.refused, verdict.dropped), (5, 0));
}

#[tokio::test]
async fn an_answer_stops_at_4_mib_below_its_limit() {
    let emulator = emulator().await;
    emulator.push(TOKEN, Push { count: 12, bytes: 500_000, ..Push::default() }).expect("bot");
    let answer = call(&emulator.url(), "getUpdates", r#"{"limit":100}"#).await;
    assert_eq!(answer.ids().len(), 8);
    assert!(answer.body.len() < 4 << 20, "{}", answer.body.len());
}

#[tokio::test]
async fn an_update_above_512_kib_is_dropped_silently_and_counted() {
    let emulator = emulator().await;
    let push = |bytes| emulator.push(TOKEN, Push { bytes, ..Push::default() }).expect("bot").len();
    assert_eq!((push(512 << 10), push(500 << 10)), (0, 1));
    let verdict = emulator.bot_verdict(TOKEN, WINDOW).expect("bot");
    assert_eq!((verdict.updates, verdict.refused, verdict.dropped), (1, 1, 1));
}

#[tokio::test]
async fn a_full_queue_drops_the_new_ones_by_number_and_by_bytes() {
    let emulator = emulator().await;
    let ids = emulator.push(TOKEN, Push { count: 100_003, ..Push::default() }).expect("bot");
    assert_eq!(ids.len(), 100_000);
    assert_eq!(emulator.bot_verdict(TOKEN, WINDOW).expect("bot").dropped, 3);
    emulator.add_bot("7:big", "big_bot").expect("a token");
    let ids = emulator.push("7:big", Push { count: 300, bytes: 500_000, ..Push::default() }).expect("bot");
    assert_eq!(ids.len(), 268, "128 MiB in pieces of 500,000 bytes and their JSON");
    let first = get(&emulator.url(), "/bot7:big/getUpdates?limit=1").await.ids();
    assert_eq!(first, [i64::from(ids[0])], "the oldest ones stay");
}
