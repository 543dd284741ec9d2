//! Failover by the end of the holder's session.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use pollux_lease::{BootInstant, Config, Evidence, Lease, Role};
use pollux_lease_soak::oracle::{Recorder, judge};
use pollux_postgres::{Options, Proxy, Server, Stop};
use support::oracle::verdict;
use support::process::{Contender, contend};
use support::{Db, config, leads, ready, see, server, stands_by, until};
use tempfile::TempDir;
use tokio_postgres::Client;

const TTL: Duration = Duration::from_secs(10);
/// Of the session, by default.
const FENCE: Duration = Duration::from_secs(1);

/// What a contender's process runs; in the test's own process it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contender() {
    contend().await;
}

/// A bot whose failover goes by sessions, and a place for what its agents believe.
async fn fast(db: &Db) -> (Client, TempDir) {
    fast_with(db, FENCE).await
}

async fn fast_with(db: &Db, fence: Duration) -> (Client, TempDir) {
    let client = db.client().await;
    let (fence, silence) = (fence.as_millis(), fence.as_millis() * 3);
    let fast = format!(r#"{{"fenceMilliseconds": {fence}, "sessionTimeoutMilliseconds": {silence}}}"#);
    let json = format!(r#"{{"leaseDurationSeconds": 10, "failover": "Fast", "fast": {fast}}}"#);
    let put = format!("SELECT pollux.put_setting('c', 'shop', 'echo', 1, NULL, '{json}')");
    client.execute(&put, &[]).await.unwrap();
    (client, tempfile::tempdir().unwrap())
}

/// The row names a session, and this many candidates are refused its lock.
async fn armed(client: &Client, candidates: usize) {
    until(client, "the holder has a session", "SELECT session_key IS NOT NULL FROM pollux.lease").await;
    let trying = format!(
        "SELECT count(*) = {candidates} FROM pg_stat_activity a
          WHERE application_name = 'pollux-lock' AND datname = current_database()
            AND query LIKE '%try_advisory%' AND state = 'idle'
            AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')"
    );
    until(client, "candidates try", &trying).await;
}

/// Starts processes of their own.
fn starter(db: &Db, beliefs: &TempDir) -> impl Fn(&str) -> Contender {
    let (uri, beliefs) = (db.file(&db.owner), beliefs.path().to_owned());
    move |pod| Contender::start(&uri, &beliefs, pod, 0, TTL, None)
}

fn patient(file: PathBuf, pod: &str) -> Lease {
    ready(Config { default_ttl: TTL, ..config(file, pod) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_when_its_last_heartbeat_counts_no_more() {
    let db = Db::new().await;
    let (client, beliefs) = fast(&db).await;
    let start = starter(&db, &beliefs);
    let a = start("a");
    until(&client, "a leads", "SELECT epoch = 1 FROM pollux.lease").await;
    let _b = start("b");
    armed(&client, 1).await;
    let at = a.kill();
    until(&client, "b leads", "SELECT epoch = 2 AND pod = 'b' FROM pollux.lease").await;
    let took = BootInstant::now() - at;
    assert!(took < TTL / 2, "not by the TTL: {took:?}");
    let row = client.query_one("SELECT evidence FROM pollux.handover WHERE epoch = 2", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "session");
    println!("took over after {took:?}");
    verdict(beliefs.path(), &[1, 2], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_a_black_hole_stops_before_its_session_is_ended() {
    let db = Db::new().await;
    let (client, beliefs) = fast(&db).await;
    let proxy = Proxy::start(server().port()).unwrap();
    let a = patient(db.file(&server().uri_for(&db.name, proxy.port())), "a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = patient(db.file(&db.owner), "b");
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    stands_by(&b).await;
    armed(&client, 1).await;
    proxy.hang();
    let start = BootInstant::now();
    see(&a, "a stops", |view| view.role == Role::Standby).await;
    assert!(BootInstant::now() - start < FENCE + Duration::from_millis(500));
    assert_eq!(leads(&b).await, 2);
    let took = BootInstant::now() - start;
    assert!(took < TTL / 2, "not by the TTL: {took:?}");
    assert_eq!(b.view().borrow().takeover.as_ref().map(|t| t.evidence), Some(Evidence::Session));
    println!("took over after {took:?}");
    proxy.heal();
    see(&a, "a sees it", |view| view.epoch == 2).await;
    verdict(beliefs.path(), &[1, 2], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_ends_all_sessions_and_deposes_nobody() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    // A machine that is busy starts a server more slowly than in a second; after the fence the holder could not vouch.
    let (client, beliefs) = fast_with(&db, TTL * 4 / 5).await;
    let a = patient(db.file(&db.owner), "a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let others = ["b", "c"].map(|pod| patient(db.file(&db.owner), pod));
    armed(&client, 2).await;
    server.stop(Stop::Fast).unwrap();
    server.start_again().unwrap();
    let client = db.client().await;
    let key = "SELECT session_key IS NOT NULL AND pod = 'a' AND epoch = 1 FROM pollux.lease";
    until(&client, "a has a session again", key).await;
    armed(&client, 2).await;
    let seq: i64 = client.query_one("SELECT renew_seq FROM pollux.lease", &[]).await.unwrap().get(0);
    until(&client, "it goes on", &format!("SELECT renew_seq > {} FROM pollux.lease", seq + 2)).await;
    assert_eq!(leads(&a).await, 1);
    drop(others);
    let verdict = judge(beliefs.path()).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(verdict.epochs, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_candidate_keeps_nobody_from_the_lease() {
    let db = Db::new().await;
    let (client, beliefs) = fast(&db).await;
    let start = starter(&db, &beliefs);
    let a = start("a");
    until(&client, "a leads", "SELECT epoch = 1 FROM pollux.lease").await;
    let frozen = start("b");
    armed(&client, 1).await;
    let _c = start("c");
    armed(&client, 2).await;
    frozen.freeze();
    let at = a.kill();
    until(&client, "c leads", "SELECT epoch = 2 AND pod = 'c' FROM pollux.lease").await;
    let took = BootInstant::now() - at;
    assert!(took < TTL / 2, "not by the TTL: {took:?}");
    verdict(beliefs.path(), &[1, 2], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_fast_the_ttl_alone_counts_and_nobody_tries() {
    let db = Db::new().await;
    let (client, _) = fast(&db).await;
    let a = patient(db.file(&db.owner), "a");
    leads(&a).await;
    let b = patient(db.file(&db.owner), "b");
    stands_by(&b).await;
    armed(&client, 1).await;
    client
        .execute("SELECT pollux.put_setting('c', 'shop', 'echo', 2, NULL, '{\"failover\": \"Ttl\"}')", &[])
        .await
        .unwrap();
    until(&client, "the row names no session", "SELECT session_key IS NULL FROM pollux.lease").await;
    let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pollux-lock' AND datname = current_database()";
    until(&client, "the sessions are closed", none).await;
    assert_eq!(leads(&a).await, 1);
    let fence = |view: &pollux_lease::View| match view.role {
        Role::Leader { fence, .. } => fence,
        Role::Standby => BootInstant::ZERO,
    };
    let now = BootInstant::now();
    see(&a, "its fence is the TTL's", |view| fence(view) > now + TTL / 2).await;
}
