//! Many leaders that do not know what they are, at once, at every isolation level.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::seq::IteratorRandom;

use crate::database::{CLAIM, Db, FENCE, ISOLATIONS, Outcome};

const SESSIONS: usize = 6;
const UPDATES: i64 = 150;
/// So many updates are in the hands of bots at once.
const BATCH: usize = 6;

/// What a run left behind.
#[derive(Debug, Default)]
struct Seen {
    /// Effects after one of a later epoch.
    backwards: i64,
    /// Effects beyond the first of an update.
    doubled: i64,
    updates: i64,
    epochs: i64,
    stale: i64,
}

/// Every session processes updates under epochs that are, or were a moment ago, the current one.
async fn run(db: Db, isolation: &'static str) -> Seen {
    let (db, epoch) = (Arc::new(db), Arc::new(AtomicI64::new(1)));
    let queue: Arc<Mutex<BTreeSet<i64>>> = Arc::new(Mutex::new((1..=UPDATES).collect()));
    let leading = (0..SESSIONS).map(|_| {
        let (db, epoch, queue) = (db.clone(), epoch.clone(), queue.clone());
        tokio::spawn(async move {
            let session = db.session().await;
            session.run(&format!("SET default_transaction_isolation = '{isolation}'")).await;
            let delivered = || queue.lock().unwrap().iter().take(BATCH).choose(&mut rand::rng()).copied();
            let mut stale = 0;
            while let Some(update) = delivered() {
                // What its gate told it, some time ago.
                let mine = epoch.load(Ordering::Relaxed) - rand::rng().random_range(0..2);
                if rand::rng().random_ratio(1, 8) {
                    epoch.fetch_add(1, Ordering::Relaxed);
                }
                match session.process(mine, update).await.unwrap() {
                    Outcome::Written | Outcome::Done => _ = queue.lock().unwrap().remove(&update),
                    Outcome::Stale => stale += 1,
                    Outcome::Again => {}
                }
            }
            stale
        })
    });
    let mut seen = Seen::default();
    for led in leading.collect::<Vec<_>>() {
        seen.stale += led.await.unwrap();
    }
    let session = db.session().await;
    seen.backwards = session
        .one("SELECT count(*) FROM (SELECT epoch < max(epoch) OVER (ORDER BY n) AS b FROM effect) e WHERE b")
        .await;
    seen.doubled = session.one("SELECT count(*) - count(DISTINCT update_id) FROM effect").await;
    seen.updates = session.one("SELECT count(DISTINCT update_id) FROM effect").await;
    seen.epochs = session.one("SELECT count(DISTINCT epoch) FROM effect").await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_any_race_effects_are_in_the_order_of_epochs_and_one_per_update() {
    for isolation in ISOLATIONS {
        let seen = run(Db::new().await, isolation).await;
        assert_eq!((seen.backwards, seen.doubled, seen.updates), (0, 0, UPDATES), "{isolation}: {seen:?}");
        assert!(seen.epochs >= 10 && seen.stale >= 10, "{isolation}: hardly a race: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_races_without_the_kit_write_backwards_and_double() {
    let db = Db::new().await;
    db.disarm(&[FENCE, CLAIM]).await;
    let seen = run(db, ISOLATIONS[0]).await;
    assert!(seen.backwards > 0 && seen.doubled > 0, "{seen:?}");
}
