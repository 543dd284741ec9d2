//! `fence_bump`: what an old leader can still do.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::database::{BOT, Db, ISOLATIONS, Outcome};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_old_leader_writes_nothing_once_the_new_one_has_written() {
    let db = Db::new().await;
    let (old, new) = (db.session().await, db.session().await);
    assert_eq!(old.process(1, 10).await.unwrap(), Outcome::Written);
    // The old leader pauses between two updates.
    assert_eq!(new.process(2, 11).await.unwrap(), Outcome::Written);
    assert_eq!(old.process(1, 12).await.unwrap(), Outcome::Stale);
    assert_eq!(new.effects(12).await, 0);
    assert_eq!(new.process(2, 12).await.unwrap(), Outcome::Written, "it is left to the new leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_paused_with_an_old_snapshot_writes_nothing() {
    for isolation in ISOLATIONS {
        let db = Db::new().await;
        let (old, new) = (db.session().await, db.session().await);
        // With the row of an earlier epoch, and without any.
        for (old_epoch, new_epoch) in [(1, 2), (3, 4)] {
            old.run(&format!("BEGIN ISOLATION LEVEL {isolation}")).await;
            let _: i64 = old.one("SELECT count(*) FROM effect").await;
            assert_eq!(new.process(new_epoch, new_epoch).await.unwrap(), Outcome::Written);
            match old.try_fence(old_epoch).await {
                Ok(good) => assert!(!good, "{isolation}: it may not write"),
                Err(error) => assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}"),
            }
            old.run("ROLLBACK").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_leader_writes_nothing_before_the_old_ones_transaction_is_over() {
    let db = Db::new().await;
    let (old, new, looks) = (db.session().await, db.session().await, db.session().await);
    // In the transaction that brings its epoch, and in a later one.
    for (old_epoch, known, end, wanted) in
        [(1, false, "COMMIT", 1), (3, false, "ROLLBACK", 0), (5, true, "COMMIT", 1), (7, true, "ROLLBACK", 0)]
    {
        assert!(!known || old.fence(old_epoch).await);
        old.run("BEGIN").await;
        assert!(old.fence(old_epoch).await);
        let pid = new.pid();
        let bumping = async {
            new.run("BEGIN").await;
            new.fence(old_epoch + 1).await
        };
        let ending = async {
            looks.until_waits(pid).await;
            old.effect(old_epoch, old_epoch).await;
            old.run(end).await;
        };
        assert!(tokio::join!(bumping, ending).0);
        assert_eq!(new.effects(old_epoch).await, wanted, "the new leader sees what the old one has written");
        new.run("COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leader_that_waits_for_the_new_one_is_stale_if_that_commits_and_good_if_not() {
    let db = Db::new().await;
    let (old, new, looks) = (db.session().await, db.session().await, db.session().await);
    // Each time from an empty table, and from one with the old epoch in it.
    for (empty, end, good) in
        [(true, "COMMIT", false), (false, "COMMIT", false), (true, "ROLLBACK", true), (false, "ROLLBACK", true)]
    {
        looks.run("TRUNCATE pollux_bot.fence").await;
        assert!(empty || old.fence(1).await);
        new.run("BEGIN").await;
        assert!(new.fence(2).await);
        let pid = old.pid();
        let waiting = old.fence(1);
        let ending = async {
            looks.until_waits(pid).await;
            new.run(end).await;
        };
        assert_eq!(tokio::join!(waiting, ending).0, good, "empty: {empty}, {end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_one_leader_do_not_wait_for_each_other() {
    let db = Db::new().await;
    let (a, b) = (db.session().await, db.session().await);
    assert!(a.fence(1).await);
    for session in [&a, &b] {
        session.run("BEGIN").await;
        assert!(session.fence(1).await, "both are open at the same time");
    }
    for (session, update) in [(&a, 10), (&b, 11)] {
        assert!(session.claim(update).await);
        session.run("COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handlers_that_bring_a_new_epoch_at_once_may_both_write() {
    let db = Db::new().await;
    let (a, b, looks) = (db.session().await, db.session().await, db.session().await);
    assert!(looks.fence(1).await);
    a.run("BEGIN").await;
    assert!(a.fence(2).await);
    let pid = b.pid();
    let waiting = b.fence(2);
    let ending = async {
        looks.until_waits(pid).await;
        a.run("COMMIT").await;
    };
    assert!(tokio::join!(waiting, ending).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_transaction_that_stays_open_holds_nobody_up() {
    let db = Db::new().await;
    let (old, new) = (db.session().await, db.session().await);
    assert!(new.fence(2).await);
    old.run("BEGIN").await;
    assert!(!old.fence(1).await);
    assert!(new.fence(2).await);
    assert!(new.fence(3).await);
    old.run("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_frozen_within_its_transaction_holds_the_next_one_up_for_a_bounded_time() {
    let db = Db::new().await;
    let (old, new) = (db.session().await, db.session().await);
    let bound = "SHOW idle_in_transaction_session_timeout";
    // The user's own bound counts; where there is none the kit has one. Either function is enough.
    old.run("SET idle_in_transaction_session_timeout = '300ms'").await;
    for (session, wanted) in [(&old, "300ms"), (&new, "10s")] {
        for function in ["fence_bump", "claim_update"] {
            session.run("BEGIN").await;
            assert!(session.one::<bool>(&format!("SELECT pollux_bot.{function}({BOT}, 1)")).await);
            assert_eq!(session.one::<String>(bound).await, wanted, "{function}");
            session.run("ROLLBACK").await;
        }
    }
    assert_eq!(new.one::<String>(bound).await, "0", "only within the transaction");

    old.run("BEGIN").await;
    assert!(old.fence(1).await && old.claim(10).await);
    old.effect(1, 10).await;
    let since = Instant::now();
    assert!(new.fence(2).await, "the server has ended the old one's session");
    assert!(since.elapsed() >= Duration::from_millis(200), "it waited: {:?}", since.elapsed());
    assert!(old.try_run("COMMIT").await.is_err());
    assert_eq!(new.process(2, 10).await.unwrap(), Outcome::Written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_lead_has_no_epoch_and_may_not_write() {
    let db = Db::new().await;
    let session = db.session().await;
    assert!(!session.one::<bool>("SELECT pollux_bot.fence_bump(4242, NULL)").await);
    assert!(session.fence(1).await, "and nothing has come of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bots_epochs_are_nothing_to_another_bot() {
    let db = Db::new().await;
    let session = db.session().await;
    assert!(session.fence(9_007_199_254_740_991).await);
    assert!(session.one::<bool>("SELECT pollux_bot.fence_bump(4243, 1)").await);
    assert!(!session.fence(9_007_199_254_740_990).await);
}
