//! Handing over, with bots that acknowledge before they work and the emulator's ledger as the oracle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollux_botapi::{Emulator, Load};
use pollux_gate::{DrainOutcome, Event, Leadership, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Bot, LIMIT, Rig, TOKEN, emulator, event, polls, push};

/// Handlers take 60 ms here, so the silence that counts can be short.
fn quick() -> Settings {
    Settings { quiet: Some(Duration::from_millis(300)), ..Settings::default() }
}

/// A bot as most libraries are: it acknowledges when it has queued, and a task answers each update.
pub(crate) struct AckFirst {
    polling: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    dead: CancellationToken,
}

impl AckFirst {
    pub(crate) async fn start(rig: &Rig) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let dead = CancellationToken::new();
        let polling = tokio::spawn(Self::poll(rig.bot().await, rig.address, stop.clone(), dead.clone()));
        Self { polling, stop, dead }
    }

    async fn poll(mut bot: Bot, address: std::net::SocketAddr, stop: Arc<AtomicBool>, dead: CancellationToken) {
        let mut offset = 0;
        while !stop.load(Ordering::Relaxed) {
            for id in bot.updates(offset, 10).await.ids() {
                offset = id + 1;
                let dead = dead.clone();
                let handler = async move {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    let mut caller = Bot::connect(address).await;
                    caller.call("sendMessage", &format!("chat_id=1001&text=%23{id}")).await;
                };
                tokio::spawn(async move { dead.run_until_cancelled(handler).await });
            }
        }
    }

    /// Its process dies, with all that it had in memory.
    pub(crate) fn kill(self) {
        self.dead.cancel();
        self.stop();
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.polling.abort();
    }
}

async fn pair(emulator: &Emulator) -> (Rig, Rig) {
    let a = Rig::with(&emulator.lane("a").await.unwrap(), quick()).await;
    let b = Rig::with(&emulator.lane("b").await.unwrap(), quick()).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_r32_handing_to_and_fro_under_load_loses_and_doubles_nothing() {
    let emulator = emulator().await;
    let (a, b) = pair(&emulator).await;
    let bots = [AckFirst::start(&a).await, AckFirst::start(&b).await];
    for rig in [&a, &b] {
        rig.until("a candidate", |status| status.bot_polling).await;
    }
    a.lead(1);
    emulator.load(TOKEN, Load { rate: 40.0, seconds: Some(Duration::from_secs(8)), ..Load::default() }).unwrap();
    let mut epoch = 1;
    let (mut old, mut new) = (&a, &b);
    while emulator.loading(TOKEN) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut events = new.gate.events();
        let drained = old.gate.drain().await;
        assert_eq!((drained.outcome, drained.confirmed), (DrainOutcome::Complete, true), "{drained:?}");
        old.gate.set_leadership(Leadership::Standby);
        epoch += 1;
        new.lead(epoch);
        let first = event(&mut events, |event| matches!(event, Event::FirstPoll { .. })).await;
        let Event::FirstPoll { at, .. } = first else { unreachable!() };
        println!(
            "epoch {epoch}: drained in {:?}, no poll for {:?}",
            drained.duration,
            at - drained.last_poll_ended.unwrap()
        );
        std::mem::swap(&mut old, &mut new);
    }
    let settled = emulator.settled(Some(TOKEN), LIMIT, None).await.unwrap();
    assert!(settled.settled, "{settled:?}");
    let verdict = emulator.bot_verdict(TOKEN, Duration::from_secs(5)).unwrap();
    assert!(epoch >= 5, "{epoch} handovers");
    let json = serde_json::to_value(&verdict).unwrap();
    let ledger = emulator.ledger(TOKEN).unwrap();
    assert!(ledger.updates.len() > 250, "{}", ledger.updates.len());
    for update in &ledger.updates {
        assert_eq!(update.replies.len(), 1, "update {} has {} answers: {json}", update.id, update.replies.len());
    }
    let seen = emulator.polls(TOKEN).unwrap();
    assert!(seen.iter().all(|poll| poll.open_polls <= 1), "two polls at once");
    for bot in bots {
        bot.stop();
    }
}

#[tokio::test]
async fn r32_1_a_draining_gate_delivers_nothing_more() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), quick()).await;
    rig.lead(1);
    let ids = push(&emulator, 1);
    let (bot, answer) = rig.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), ids);
    let gate = rig.gate.clone();
    let draining = tokio::spawn(async move { gate.drain().await });
    rig.until("draining", |status| status.draining && status.leading.is_none()).await;
    push(&emulator, 1);
    let asking = bot.ask(ids[0] + 1, 3);
    let mut caller = rig.bot().await;
    caller.call("sendMessage", &format!("chat_id=1&text=%23{}", ids[0])).await;
    let drained = draining.await.unwrap();
    assert_eq!((drained.outcome, drained.owed, drained.unacknowledged), (DrainOutcome::Complete, 0, 0));
    assert!(drained.confirmed);
    assert_eq!(asking.await.unwrap().1.ids(), [0_i64; 0], "held on, as by a standby");
    let ledger = emulator.ledger(TOKEN).unwrap();
    assert!(ledger.updates[0].removed.is_some(), "confirmed");
    assert!(ledger.updates[1].removed.is_none(), "kept for the successor");
}

#[tokio::test]
async fn r32_5_the_last_calls_of_a_stopping_bot_take_no_time() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let asking = rig.bot().await.ask(0, 30);
    polls(&emulator, 1).await;
    rig.gate.drain().await;
    let begun = Instant::now();
    rig.gate.terminate();
    let (mut bot, answer) = asking.await.unwrap();
    assert_eq!(answer.ids(), [0_i64; 0]);
    bot.updates(0, 0).await;
    bot.call("getUpdates", "offset=0&limit=1&timeout=30").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "Telegram would have held it for three: {:?}", begun.elapsed());
    assert_eq!(emulator.polls(TOKEN).unwrap().len(), 1, "not forwarded");
    let answer = bot.call("sendMessage", "chat_id=1&text=bye").await;
    assert_eq!(answer.status, 200, "other methods pass");
}

#[tokio::test]
async fn r32_fast_hands_over_before_the_handlers_have_finished() {
    let emulator = emulator().await;
    let settings = Settings { ordering: pollux_gate::Ordering::Fast, ..quick() };
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.lead(1);
    let ids = push(&emulator, 1);
    let (bot, answer) = rig.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), ids);
    let asking = bot.ask(ids[0] + 1, 30);
    rig.until("polling", |status| status.bot_polling).await;
    let drained = rig.gate.drain().await;
    assert_eq!((drained.outcome, drained.confirmed, drained.owed), (DrainOutcome::Complete, true, 1));
    rig.gate.set_leadership(Leadership::Standby);
    let gate = rig.gate.clone();
    let finishing = tokio::spawn(async move { gate.finished().await });
    rig.bot().await.call("sendMessage", &format!("chat_id=1&text=%23{}", ids[0])).await;
    assert!(!finishing.is_finished(), "its silence has only begun");
    tokio::time::timeout(LIMIT, finishing).await.unwrap().unwrap();
    asking.abort();
}

#[tokio::test]
async fn r31_a_drain_that_is_taken_back_delivers_again_under_its_epoch() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), quick()).await;
    rig.lead(1);
    let asking = rig.bot().await.ask(0, 30);
    polls(&emulator, 1).await;
    rig.gate.drain().await;
    let ids = push(&emulator, 1);
    rig.gate.resume();
    assert_eq!(asking.await.unwrap().1.ids(), ids);
    assert_eq!(rig.gate.status().borrow().leading, Some(1));
}

#[tokio::test]
async fn r32_a_drain_waits_while_the_bot_says_that_it_is_busy() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), quick()).await;
    rig.lead(1);
    let asking = rig.bot().await.ask(0, 30);
    polls(&emulator, 1).await;
    let mut job = rig.bot().await;
    let refused = job.get("/busy").await;
    assert_eq!(refused.status, 405, "a prefetch is no job");
    let busy = job.send(crate::support::request(http::Method::POST, "/busy", "")).await;
    assert_eq!((busy.status, busy.body.as_ref()), (http::StatusCode::OK, br#"{"ok":true}"#.as_slice()));
    let gate = rig.gate.clone();
    let draining = tokio::spawn(async move { gate.drain().await });
    rig.until("draining", |status| status.draining).await;
    // A health check takes the same way as the end of a drain does.
    job.get("/healthz").await;
    assert!(!draining.is_finished());
    job.send(crate::support::request(http::Method::POST, "/idle", "")).await;
    let drained = tokio::time::timeout(LIMIT, draining).await.unwrap().unwrap();
    assert!(drained.duration < Duration::from_secs(15), "{drained:?}");
    asking.abort();
}

#[tokio::test]
async fn r34_a_standby_drains_at_once() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let asking = rig.bot().await.ask(0, 30);
    rig.until("polling", |status| status.bot_polling).await;
    let drained = rig.gate.drain().await;
    assert_eq!((drained.outcome, drained.duration), (DrainOutcome::Nothing, Duration::ZERO));
    assert_eq!(drained.last_poll_ended, None);
    asking.abort();
}

#[tokio::test]
async fn r36_everybody_who_drains_gets_the_same_answer() {
    let emulator = emulator().await;
    let rig = Rig::with(&emulator.url(), quick()).await;
    rig.lead(1);
    let ids = push(&emulator, 2);
    let (bot, answer) = rig.bot().await.ask(0, 10).await.unwrap();
    assert_eq!(answer.ids(), ids);
    let asking = bot.ask(ids[1] + 1, 30);
    for id in &ids {
        rig.bot().await.call("sendMessage", &format!("chat_id=1&text=%23{id}")).await;
    }
    let (one, two) = tokio::join!(rig.gate.drain(), rig.gate.drain());
    assert_eq!(one, two);
    assert_eq!(rig.gate.drain().await, one);
    asking.abort();
}
