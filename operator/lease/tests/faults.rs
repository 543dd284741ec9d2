//! What happens to a lease when PostgreSQL, or the way to it, fails.

mod support;

use std::time::Duration;

use pollux_lease::{BootInstant, Config, DatabaseState, HandOver, HandedOver, Reason, Role};
use pollux_lease_soak::oracle::Recorder;
use pollux_postgres::{Options, Pooler, Proxy, Server, Stop};
use support::oracle::verdict;
use support::{Db, TTL, config, leads, ready, see, server, stands_by, until};

fn order() -> HandOver {
    HandOver::new(Reason::PodDeleted)
}

/// An agent that reaches PostgreSQL through a proxy of its own.
fn behind(proxy: &Proxy, db: &Db, pod: &str) -> Config {
    config(db.file(&server().uri_for(&db.name, proxy.port())), pod)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_within_the_fence_changes_nothing() {
    for how in [Some(Stop::Fast), Some(Stop::Immediate), None] {
        let server = Server::start(&Options::default()).unwrap();
        let db = Db::on(&server).await;
        let beliefs = tempfile::tempdir().unwrap();
        let patient = |pod| ready(Config { default_ttl: Duration::from_secs(10), ..db.config(pod) });
        let a = patient("a");
        Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
        leads(&a).await;
        let b = patient("b");
        Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
        stands_by(&b).await;
        stop(&server, how);
        see(&a, "a notices", |view| !view.database.is_up()).await;
        assert!(a.view().borrow().role.may_poll(BootInstant::now()), "it leads until its fence");
        server.start_again().unwrap();
        let up = BootInstant::now();
        see(&a, "a renews", |view| view.role.epoch() == Some(1) && view.last_answer.is_some_and(|at| at > up)).await;
        see(&b, "b is back", |view| view.database.is_up()).await;
        // As long as anybody could be tempted to take it.
        let client = db.client().await;
        let seq: i64 = client.query_one("SELECT renew_seq FROM pollux.lease", &[]).await.unwrap().get(0);
        until(&client, "it renews", &format!("SELECT renew_seq > {} FROM pollux.lease", seq + 2)).await;
        verdict(beliefs.path(), &[1], 1).await;
    }
}

fn stop(server: &Server, how: Option<Stop>) {
    match how {
        Some(how) => server.stop(how).unwrap(),
        None => server.kill().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_that_outlives_every_fence_the_row_is_doubted_and_the_same_leader_goes_first() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    let beliefs = tempfile::tempdir().unwrap();
    let a = db.agent("a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = db.agent("b");
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    stands_by(&b).await;
    stop(&server, None);
    see(&a, "the fence passes", |view| view.role == Role::Standby).await;
    server.start_again().unwrap();
    let up = BootInstant::now();
    let epoch = leads(&a).await;
    let took = BootInstant::now() - up;
    assert!(epoch > 1, "what the server may have forgotten is below it");
    assert!(took >= TTL * 5 / 4, "any fence that was forgotten has passed: {took:?}");
    assert!(took < TTL * 5 / 4 + Duration::from_secs(4), "{took:?}");
    verdict(beliefs.path(), &[1, epoch], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_at_its_fence_and_only_then_another_one_begins() {
    for cut in [Proxy::cut, Proxy::hang, Proxy::hang_replies] {
        let db = Db::new().await;
        let beliefs = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(server().port()).unwrap();
        let a = ready(behind(&proxy, &db, "a"));
        Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
        leads(&a).await;
        let b = db.agent("b");
        Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
        stands_by(&b).await;
        cut(&proxy);
        let start = BootInstant::now();
        assert_eq!(leads(&b).await, 2);
        let took = BootInstant::now() - start;
        assert!(took < TTL + Duration::from_millis(1500), "after {took:?}");
        see(&a, "a has stopped", |view| view.role == Role::Standby).await;
        proxy.heal();
        let view = see(&a, "a sees its successor", |view| view.epoch == 2).await;
        assert!(view.holder.is_some_and(|holder| holder.pod == "b"));
        verdict(beliefs.path(), &[1, 2], 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_carried_out_without_an_answer_make_no_second_leader() {
    // Each with the epoch at which things come to rest.
    for (statement, epoch) in [("pollux.acquire(", 1), ("pollux.renew(", 1), ("pollux.beat(", 1)] {
        let db = Db::new().await;
        let beliefs = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(server().port()).unwrap();
        proxy.lose_replies_to(statement, 1);
        let a = ready(behind(&proxy, &db, "a"));
        Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
        assert_eq!(leads(&a).await, epoch, "{statement}");
        let client = db.client().await;
        until(&client, "it renews", &format!("SELECT renew_seq > 3 AND epoch = {epoch} FROM pollux.lease")).await;
        assert_eq!(proxy.lost(), 1, "{statement}");
        let b = db.agent("b");
        Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
        stands_by(&b).await;
        verdict(beliefs.path(), &[epoch], 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_that_is_carried_out_without_an_answer_is_found_out() {
    let db = Db::new().await;
    let beliefs = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server().port()).unwrap();
    let a = ready(behind(&proxy, &db, "a"));
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = db.agent("b");
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    stands_by(&b).await;
    see(&a, "a sees its successor", |view| view.successor.is_some()).await;
    a.expect_handover(true);
    proxy.lose_replies_to("pollux.handover(", 1);
    let outcome = a.hand_over(order()).await;
    assert_eq!(outcome, HandedOver::To { pod: "b".into(), epoch: 2 });
    assert_eq!(leads(&b).await, 2);
    verdict(beliefs.path(), &[1, 2], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_never_arrived_is_made_void_by_a_new_epoch() {
    let db = Db::new().await;
    let beliefs = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server().port()).unwrap();
    let a = ready(behind(&proxy, &db, "a"));
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    proxy.cut();
    see(&a, "a is cut off", |view| !view.database.is_up()).await;
    assert_eq!(a.hand_over(order()).await, HandedOver::Unknown);
    assert_eq!(a.view().borrow().role, Role::Standby, "whatever the reply (I7)");
    proxy.heal();
    assert_eq!(leads(&a).await, 2, "the pod stays, the bot is ready: it leads on, under another epoch");
    verdict(beliefs.path(), &[1, 2], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_notification_arrives_it_is_said_and_handovers_work_all_the_same() {
    let db = Db::new().await;
    let beliefs = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server().port()).unwrap();
    proxy.swallow_notifications();
    let a = ready(behind(&proxy, &db, "a"));
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = ready(behind(&proxy, &db, "b"));
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    for agent in [&a, &b] {
        see(agent, "it says so", |view| view.database == DatabaseState::Up { wakes: false }).await;
    }
    see(&a, "a sees its successor", |view| view.successor.is_some()).await;
    let start = BootInstant::now();
    assert_eq!(a.hand_over(order()).await, HandedOver::To { pod: "b".into(), epoch: 2 });
    assert_eq!(leads(&b).await, 2);
    let took = BootInstant::now() - start;
    assert!(took < TTL / 2, "after {took:?}");
    verdict(beliefs.path(), &[1, 2], 2).await;
    // Where they do arrive it is known as well.
    let c = db.agent("c");
    see(&c, "it is woken", |view| view.database == DatabaseState::Up { wakes: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_notifications_make_agents_look_and_change_nothing() {
    let db = Db::new().await;
    let beliefs = tempfile::tempdir().unwrap();
    let a = db.agent("a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = db.agent("b");
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    stands_by(&b).await;
    // Any role of the database can send them.
    let client = db.client().await;
    for n in 0..500 {
        for payload in ["", "b", r#"{"holder":"b","epoch":99}"#] {
            client.execute("SELECT pg_notify('pollux_4242', $1), pg_notify('pollux', $1)", &[&payload]).await.unwrap();
        }
        if n % 100 == 0 {
            assert!(a.view().borrow().role.may_poll(BootInstant::now()));
        }
    }
    let before = BootInstant::now();
    let view = see(&a, "a renews in the flood's wake", |view| view.last_answer.is_some_and(|at| at > before)).await;
    assert_eq!(view.role.epoch(), Some(1));
    assert_eq!(b.view().borrow().role, Role::Standby);
    verdict(beliefs.path(), &[1], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_a_standby_did_not_confirm_is_no_success() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let waits =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'pollux-agent'";
    let fence = |role: Role| match role {
        Role::Leader { fence, .. } => fence,
        Role::Standby => panic!("it does not lead any more"),
    };
    until(&client, "a renewal waits for its standby", waits).await;
    let believed = fence(a.view().borrow().role);
    // What is cancelled in this wait answers with success and a warning.
    client
        .query(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'pollux-agent'",
            &[],
        )
        .await
        .unwrap();
    let view = see(&a, "it is told", |view| !view.database.is_up()).await;
    if let Role::Leader { fence, .. } = view.role {
        assert_eq!(fence, believed, "a commit that a failover may undo extends nothing");
    }
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    assert_eq!(leads(&a).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_read_only_is_left() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    let sessions =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pollux-agent'";
    // What a former primary is after a failover.
    client.batch_execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", db.name)).await.unwrap();
    client.query(&format!("SELECT pg_terminate_backend(pid) FROM ({sessions}) s"), &[]).await.unwrap();
    let view = see(&a, "it says so", |view| view.database.error().is_some_and(|e| e.contains("read-only"))).await;
    assert_eq!(view.epoch, 1);
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    client.batch_execute(&format!("ALTER DATABASE {} RESET default_transaction_read_only", db.name)).await.unwrap();
    // The new connections that it makes are the proof: on the old one it would be read-only for ever.
    see(&a, "it is back", |view| view.database.is_up()).await;
    assert_eq!(leads(&a).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_database_freezes_nobody_else() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    let beliefs = tempfile::tempdir().unwrap();
    let a = db.agent("a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    server.freeze();
    let start = BootInstant::now();
    see(&a, "it says so", |view| !view.database.is_up()).await;
    see(&a, "it stops at its fence", |view| view.role == Role::Standby).await;
    let took = BootInstant::now() - start;
    assert!(took < TTL + Duration::from_millis(500), "after {took:?}");
    server.thaw();
    assert_eq!(leads(&a).await, 1);
    verdict(beliefs.path(), &[1], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_real_transaction_pooler_leases_work_and_it_is_said_that_nothing_wakes() {
    let db = Db::new().await;
    let pooler = Pooler::start(server().port(), "postgres", 20).unwrap();
    let beliefs = tempfile::tempdir().unwrap();
    let behind = |pod: &str| ready(support::config(db.file(&server().uri_for(&db.name, pooler.port())), pod));
    let a = behind("a");
    Recorder::new(beliefs.path(), "a").unwrap().follow(&a);
    leads(&a).await;
    let b = behind("b");
    Recorder::new(beliefs.path(), "b").unwrap().follow(&b);
    for agent in [&a, &b] {
        see(agent, "it says so", |view| view.database == DatabaseState::Up { wakes: false }).await;
    }
    see(&a, "a sees its successor", |view| view.successor.is_some()).await;
    a.expect_handover(true);
    let start = BootInstant::now();
    assert_eq!(a.hand_over(order()).await, HandedOver::To { pod: "b".into(), epoch: 2 });
    assert_eq!(leads(&b).await, 2);
    println!("handover behind a pooler: {:?}", BootInstant::now() - start);
    verdict(beliefs.path(), &[1, 2], 2).await;
}
