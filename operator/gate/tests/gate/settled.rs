//! A leader that dies, and what its successor's bot gets (R28).

use std::time::Duration;

use pollux_botapi::{Emulator, Load};
use pollux_gate::{Delivery, Leadership, Settings};

use crate::drains::AckFirst;
use crate::support::{LIMIT, Rig, TOKEN, emulator, polls, push};

/// The handlers of [`AckFirst`] take 60 ms, so a second is long enough.
fn settings(delivery: Delivery) -> Settings {
    Settings { delivery, settle: Duration::from_secs(1), ..Settings::default() }
}

/// Kills a leader and its bot under load, five times over, and counts the updates without an answer.
async fn lost_in_crashes(delivery: Delivery) -> usize {
    let emulator = emulator().await;
    emulator.load(TOKEN, Load { rate: 40.0, seconds: Some(Duration::from_secs(4)), ..Load::default() }).unwrap();
    let mut last = None;
    for epoch in 1..6_i64 {
        let rig = Rig::with(&emulator.lane(&epoch.to_string()).await.unwrap(), settings(delivery)).await;
        let bot = AckFirst::start(&rig).await;
        rig.until("a candidate", |status| status.bot_polling).await;
        rig.lead(epoch);
        if emulator.loading(TOKEN) {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        if epoch < 5 {
            bot.kill();
            rig.gate.set_leadership(Leadership::Standby);
        } else {
            last = Some((rig, bot));
        }
    }
    let quiet = Some(Duration::from_secs(3));
    let settled = emulator.settled(Some(TOKEN), LIMIT, quiet).await.unwrap();
    assert_eq!(settled.pending, 0, "{settled:?}");
    let seen = emulator.polls(TOKEN).unwrap();
    assert!(seen.iter().all(|poll| poll.open_polls <= 1), "two polls at once");
    if let Some((_, bot)) = last {
        bot.kill();
    }
    let ledger = emulator.ledger(TOKEN).unwrap();
    assert!(ledger.updates.len() > 100, "{}", ledger.updates.len());
    ledger.updates.iter().filter(|update| update.replies.is_empty()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_settled_a_crash_loses_nothing_of_a_bot_that_acknowledges_first() {
    assert_eq!(lost_in_crashes(Delivery::Settled).await, 0);
}

/// What the test above is for: it has to be able to fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_transparent_a_crash_loses_what_such_a_bot_had_in_memory() {
    assert!(lost_in_crashes(Delivery::Transparent).await > 0);
}

#[tokio::test]
async fn r28_a_successor_gets_exactly_what_the_last_offset_that_reached_telegram_left() {
    let emulator = emulator().await;
    let (a, b) = (emulator.lane("a").await.unwrap(), emulator.lane("b").await.unwrap());
    let (a, b) = (Rig::new(&a).await, Rig::new(&b).await);
    a.lead(1);
    let first = push(&emulator, 3);
    let (bot, answer) = a.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), first);
    let asking = bot.ask(first[2] + 1, 30);
    polls(&emulator, 2).await;
    let second = push(&emulator, 2);
    let (bot, answer) = asking.await.unwrap();
    assert_eq!(answer.ids(), second, "and never acknowledged");
    bot.die().await;
    a.gate.set_leadership(Leadership::Standby);
    b.lead(2);
    let (_, answer) = b.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), second, "the acknowledged ones do not come again");
}

/// The offsets that Telegram was sent, without repetition.
fn offsets(emulator: &Emulator) -> Vec<i32> {
    let mut offsets: Vec<_> = emulator.polls(TOKEN).unwrap().iter().map(|poll| poll.offset).collect();
    offsets.dedup();
    offsets
}

#[tokio::test]
async fn r28_the_short_polls_of_settled_keep_to_their_pace_and_end() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), settings(Delivery::Settled)).await;
    rig.lead(1);
    let first = push(&emulator, 1)[0];
    let (bot, answer) = rig.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), [first]);
    rig.bot().await.call("sendMessage", &format!("chat_id=1&text=%23{first}")).await;
    let asking = bot.ask(first + 1, 10);
    polls(&emulator, 2).await;
    let second = push(&emulator, 1)[0];
    let (bot, answer) = asking.await.unwrap();
    assert_eq!(answer.ids(), [second], "the one that it has acknowledged is cut out");
    assert!(answer.took < Duration::from_millis(1500), "{:?}", answer.took);
    rig.bot().await.call("sendMessage", &format!("chat_id=1&text=%23{second}")).await;
    let asking = bot.ask(second + 1, 10);
    let next = i32::try_from(second + 1).unwrap();
    let confirmed = emulator.until(LIMIT, |emulator| offsets(emulator).last() == Some(&next)).await;
    assert!(confirmed, "{:?}", emulator.polls(TOKEN).unwrap());
    let all = emulator.polls(TOKEN).unwrap();
    let short: Vec<_> = all.iter().filter(|poll| poll.timeout == 0).map(|poll| poll.arrived).collect();
    assert!((2..=6).contains(&short.len()), "{all:?}");
    assert!(all.last().unwrap().timeout > 0, "then it waits as ever");
    assert!(rig.gate.status().borrow().leading.is_some());
    asking.abort();
}
