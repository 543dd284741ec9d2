//! `claim_update` and `forget_updates`: what an update that comes again can do.

use std::sync::Arc;

use pollux_postgres::{Options, Proxy, Server};
use rand::seq::SliceRandom;
use tokio_postgres::error::SqlState;

use crate::database::{BOT, Db, ISOLATIONS, Outcome, PATIENCE, Session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deliveries_of_one_update_have_one_effect() {
    const DELIVERIES: usize = 6;
    const UPDATES: i64 = 40;
    for isolation in ISOLATIONS {
        let db = Arc::new(Db::new().await);
        let delivering = (0..DELIVERIES).map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                let session = db.session().await;
                session.run(&format!("SET default_transaction_isolation = '{isolation}'")).await;
                let mut updates: Vec<i64> = (1..=UPDATES).collect();
                updates.shuffle(&mut rand::rng());
                for update in updates {
                    while session.process(1, update).await.unwrap() == Outcome::Again {}
                }
            })
        });
        for delivered in delivering.collect::<Vec<_>>() {
            delivered.await.unwrap();
        }
        let session = db.session().await;
        let counts = "SELECT count(*), count(DISTINCT update_id) FROM effect";
        let row = session.client.query_one(counts, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (UPDATES, UPDATES), "{isolation}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_delivery_waits_and_has_the_effect_only_if_the_first_one_fails() {
    let db = Db::new().await;
    let (first, second, looks) = (db.session().await, db.session().await, db.session().await);
    for (update, end, claimed) in [(10, "COMMIT", false), (11, "ROLLBACK", true)] {
        first.run("BEGIN").await;
        assert!(first.claim(update).await);
        let pid = second.pid();
        let waiting = second.claim(update);
        let ending = async {
            looks.until_waits(pid).await;
            first.run(end).await;
        };
        assert_eq!(tokio::join!(waiting, ending).0, claimed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_with_a_snapshot_from_before_the_first_one_has_no_effect() {
    for isolation in ISOLATIONS {
        let db = Db::new().await;
        let (first, second) = (db.session().await, db.session().await);
        second.run(&format!("BEGIN ISOLATION LEVEL {isolation}")).await;
        assert_eq!(second.effects(10).await, 0);
        assert_eq!(first.process(1, 10).await.unwrap(), Outcome::Written);
        match second.try_claim(10).await {
            Ok(claimed) => assert!(!claimed, "{isolation}"),
            Err(error) => assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}"),
        }
        second.run("ROLLBACK").await;
        assert_eq!(second.process(1, 10).await.unwrap(), Outcome::Done, "{isolation}: when it is begun again");
    }
}

/// Where the server is killed while it works on an update.
#[derive(Clone, Copy, Debug)]
enum Killed {
    BeforeTheCommit,
    AfterTheCommit,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_effect_and_confirmation_has_one_effect() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    let proxy = Proxy::start(server.port()).unwrap();
    for (update, killed) in [(10, Killed::BeforeTheCommit), (11, Killed::AfterTheCommit), (12, Killed::BeforeTheCommit)]
    {
        let session = Session::connect(&server.uri_for(&db.name, proxy.port())).await.unwrap();
        match killed {
            Killed::BeforeTheCommit => {
                proxy.hold("COMMIT");
                let processing = tokio::spawn(async move { session.process(1, update).await });
                assert!(tokio::task::block_in_place(|| proxy.wait_until_held(PATIENCE)));
                server.kill().unwrap();
                proxy.end_all();
                proxy.let_go();
                assert!(processing.await.unwrap().is_err());
            }
            Killed::AfterTheCommit => {
                proxy.lose_replies_to("COMMIT", 1);
                assert!(session.process(1, update).await.is_err(), "nobody is told of the commit");
                assert_eq!(proxy.lost(), 1);
                server.kill().unwrap();
            }
        }
        server.start_again().unwrap();
        // Nothing was confirmed, so it is delivered again; and once more, because that is not confirmed either.
        let again = db.session().await;
        let outcomes = [again.process(2, update).await.unwrap(), again.process(3, update).await.unwrap()];
        let wanted = match killed {
            Killed::BeforeTheCommit => [Outcome::Written, Outcome::Done],
            Killed::AfterTheCommit => [Outcome::Done, Outcome::Done],
        };
        assert_eq!((outcomes, again.effects(update).await), (wanted, 1), "{killed:?}");
        // The next round's leader.
        again.run("TRUNCATE pollux_bot.fence").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_begins_again_after_a_silent_week_is_a_new_update() {
    let db = Db::new().await;
    let session = db.session().await;
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Written);
    // Nobody has removed anything.
    session.run("UPDATE pollux_bot.processed_updates SET processed_at = now() - interval '7 days'").await;
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Written);
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Done, "and counts as that from then on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_telegram_may_deliver_again_is_not_forgotten() {
    let db = Db::new().await;
    let session = db.session().await;
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Written);
    // Telegram keeps an update for a day, and the clock of a database may have been set back or on.
    session.run("UPDATE pollux_bot.processed_updates SET processed_at = now() - interval '2 days'").await;
    assert_eq!(session.one::<i64>("SELECT pollux_bot.forget_updates()").await, 0);
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_takes_bounded_steps_and_waits_for_nobody() {
    let db = Db::new().await;
    let (busy, a, b) = (db.session().await, db.session().await, db.session().await);
    a.run(&format!(
        "INSERT INTO pollux_bot.processed_updates SELECT {BOT}, n, now() - interval '4 days' FROM generate_series(1, 10) n;
         ANALYZE pollux_bot.processed_updates"
    ))
    .await;
    assert_eq!(a.process(1, 11).await.unwrap(), Outcome::Written);
    // An old id is being taken again, and two remove at the same time.
    busy.run("BEGIN").await;
    assert!(busy.claim(1).await);
    a.run("BEGIN").await;
    assert_eq!(a.one::<i64>("SELECT pollux_bot.forget_updates(4)").await, 4);
    assert_eq!(b.one::<i64>("SELECT pollux_bot.forget_updates(100)").await, 5);
    a.run("COMMIT").await;
    busy.run("COMMIT").await;
    let left: Vec<i64> =
        b.one("SELECT array_agg(update_id ORDER BY update_id) FROM pollux_bot.processed_updates").await;
    assert_eq!(left, [1, 11]);
}
