//! The controller's side: schema, roles, the observer.

mod support;

use std::time::Duration;

use futures::StreamExt;
use pollux_lease::admin::{Admin, check_agent};
use pollux_lease::{
    BootInstant, Database, DrainReport, Error, HandOver, Lease, Look, Observer, ObserverState, Reason, Request, Setting,
};
use pollux_postgres::{Options, Server, Stop, Tls};
use serde_json::json;
use support::{Db, PATIENCE, connect, fresh_name, leads, ready, resource, see, server, stands_by, until};
use tokio::time::timeout;

async fn observer(db: &Db) -> Observer {
    let observer = Observer::spawn(db.file(&db.owner));
    let mut state = observer.state();
    timeout(PATIENCE, state.wait_for(|state| *state == ObserverState::Up)).await.expect("it connects").unwrap();
    observer
}

/// Waits until the observer's look at the bot is as wanted, looking when it is told to.
async fn observed(
    observer: &Observer,
    what: &str,
    wanted: impl Fn(&pollux_lease::BotView) -> bool,
) -> pollux_lease::BotView {
    let mut changes = observer.changes();
    let looking = async {
        loop {
            if let Some(view) = observer.bot(&resource("echo")).await.unwrap()
                && wanted(&view)
            {
                return view;
            }
            changes.next().await.expect("it goes on");
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_migrate_at_once() {
    let uri = server().create_database(&fresh_name()).unwrap();
    let migrations: Vec<_> = (0..10)
        .map(|_| {
            let database = Database::parse(&uri).unwrap();
            tokio::spawn(async move { Admin::connect(&database).await?.migrate().await })
        })
        .collect();
    for migration in migrations {
        migration.await.unwrap().unwrap();
    }
    let client = connect(&uri).await;
    let row = client.query_one("SELECT count(*), max(version) FROM pollux.migration", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (1, 1));
    Admin::connect(&Database::parse(&uri).unwrap()).await.unwrap().migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_role_executes_functions_and_reads_no_table() {
    let db = Db::new().await;
    let root = db.client().await;
    // An owner as hosted servers give one out: no superuser, but it may make roles.
    let owner = format!("owner_{}", db.name);
    let name = fresh_name();
    root.batch_execute(&format!("CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'o'")).await.unwrap();
    root.batch_execute(&format!("CREATE DATABASE {name} OWNER {owner}")).await.unwrap();
    let database = Database::parse(&db.owner.replace(&db.name, &name)).unwrap().with_login(&owner, "o");
    let mut admin = Admin::connect(&database).await.unwrap();
    admin.migrate().await.unwrap();
    let user = format!("agent \"of\" {name}");
    for password in ["first'; --", "second"] {
        admin.grant_role(&user, password, 20).await.unwrap();
        let login = Database::parse(&database.clone().with_login(&user, password).to_uri()).unwrap();
        check_agent(&login).await.unwrap();
    }
    let wrong = check_agent(&database.clone().with_login(&user, "first'; --")).await.unwrap_err();
    assert!(!wrong.is_transient() && wrong.to_string().contains("password"), "{wrong}");
    let login = database.clone().with_login(&user, "second");
    let agent = ready(support::config(db.file(&login.to_uri()), "a"));
    leads(&agent).await;
    let client = connect(&login.to_uri()).await;
    for refused in [
        "SELECT * FROM pollux.lease",
        "DELETE FROM pollux.handover",
        "SELECT pollux.let_go(l, '', NULL) FROM pollux.lease l",
        "SELECT pollux.put_setting('c', 'shop', 'echo', 1, NULL, '{}')",
        "SELECT pollux.note('', 1, '', '', 1, true, true, '{}', '{}')",
        "CREATE TABLE pollux.mine (n int)",
    ] {
        let e = client.batch_execute(refused).await.expect_err(refused);
        assert_eq!(e.code().unwrap().code(), "42501", "{refused}: {e}");
    }
    for (setting, value) in [("statement_timeout", "1s"), ("lock_timeout", "300ms"), ("synchronous_commit", "on")] {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_cannot_do_is_said_with_its_mend() {
    let db = Db::new().await;
    let root = db.client().await;
    let poor = format!("poor_{}", db.name);
    root.batch_execute(&format!("CREATE ROLE {poor} LOGIN PASSWORD 'p'")).await.unwrap();
    let uri = server().create_database(&fresh_name()).unwrap();
    let database = Database::parse(&uri).unwrap().with_login(&poor, "p");
    let e = Admin::connect(&database).await.unwrap().migrate().await.unwrap_err();
    assert!(!e.is_transient() && e.to_string().contains("CREATE on the database"), "{e}");
    let e = check_agent(&database).await.unwrap_err();
    assert!(!e.is_transient() && e.to_string().contains("schema pollux is missing"), "{e}");
    let nowhere = Database::parse("postgresql://u:p@127.0.0.1:9/d").unwrap();
    let e = Admin::connect(&nowhere).await.unwrap_err();
    assert!(e.is_transient(), "{e}");
    // The agent says the same, and waits.
    let agent = ready(support::config(db.file(&database.to_uri()), "a"));
    see(&agent, "it says so", |view| view.database.error().is_some_and(|e| e.contains("schema pollux is missing")))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_observer_sees_leader_candidates_reports_and_handovers() {
    let db = Db::new().await;
    let observer = observer(&db).await;
    assert_eq!(observer.bot(&resource("echo")).await.unwrap(), None);
    let a = db.agent("a");
    leads(&a).await;
    a.set_report(json!({"username": "echo_bot", "tokenAccepted": true}));
    let view =
        observed(&observer, "the report", |view| view.candidates.iter().any(|c| c.report["username"] == "echo_bot"))
            .await;
    assert_eq!((view.bot.bot_id, view.lease.epoch, view.lease.fresh), (4242, 1, true));
    let holder = view.lease.holder.as_ref().unwrap();
    assert_eq!((holder.replica.pod.as_str(), holder.replica.pod_uid.as_str()), ("a", "uid-of-a"));
    assert!(view.lease.since.is_some() && view.lease.expires_at > view.lease.since);
    assert_eq!(view.last_handover.unwrap().reason, "Initial");
    let b = db.agent("b");
    stands_by(&b).await;
    observed(&observer, "b waits", |view| view.candidates.iter().any(|c| c.party.replica.pod == "b" && c.ready)).await;
    a.expect_handover(true);
    observed(&observer, "a drains", |view| view.lease.handover_expected).await;
    let drain = DrainReport { took: Duration::from_secs(1), outcome: "timed_out".into(), unacknowledged: 3, owed: 2 };
    let order = HandOver {
        drain: Some(drain.clone()),
        last_poll_ended: Some(BootInstant::now()),
        ..HandOver::new(Reason::PodDeleted)
    };
    assert_eq!(a.hand_over(order).await.to_pod(), Some("b"));
    leads(&b).await;
    b.first_poll(BootInstant::now());
    let view =
        observed(&observer, "the gap", |view| view.last_handover.as_ref().is_some_and(|h| h.gap.is_some())).await;
    let handover = view.last_handover.unwrap();
    assert_eq!((handover.epoch, handover.reason.as_str(), handover.drain), (2, "PodDeleted", Some(drain)));
    assert_eq!((handover.from.unwrap().replica.pod, handover.to.unwrap().replica.pod), ("a".into(), "b".into()));
    // A part of a gap that came out wrong must not hide the bot's whole row.
    db.client().await.batch_execute("UPDATE pollux.handover SET old_us = -9000, new_us = 5").await.unwrap();
    assert_eq!(
        observer.bot(&resource("echo")).await.unwrap().unwrap().last_handover.unwrap().gap,
        Some(Duration::ZERO)
    );
    a.shutdown().await;
    observed(&observer, "a has signed off", |view| view.candidates.len() == 1).await;
    b.leave();
    b.shutdown().await;
    // Nobody is there, and the bot is known all the same.
    let view = observer.bot(&resource("echo")).await.unwrap().expect("its lease stays");
    assert_eq!((view.lease.epoch, view.lease.holder, view.candidates.len()), (2, None, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_written_when_they_change_and_only_then() {
    let db = Db::new().await;
    let observer = observer(&db).await;
    let a = Lease::spawn(db.config("a"));
    see(&a, "a is registered", |view| view.last_answer.is_some()).await;
    let setting =
        Setting { generation: 1, eligible: Some(vec!["r1".into()]), json: json!({"leaseDurationSeconds": 5}) };
    assert!(observer.put_setting(&resource("echo"), &setting).await.unwrap());
    assert!(!observer.put_setting(&resource("echo"), &setting).await.unwrap());
    let view = see(&a, "a knows it", |view| view.settings.is_some()).await;
    assert_eq!(view.settings.unwrap().eligible, setting.eligible);
    let request = Request { id: "1".into(), to_pod: "a".into() };
    assert!(observer.put_request(&resource("echo"), &request).await.unwrap());
    assert!(!observer.put_request(&resource("echo"), &request).await.unwrap());
    see(&a, "a knows it", |view| view.request.as_ref() == Some(&request)).await;
    let view = observer.bot(&resource("echo")).await.unwrap().unwrap();
    assert_eq!((view.setting, view.request), (Some(setting), Some(request)));
    assert!(observer.forget(&resource("echo")).await.unwrap());
    assert!(!observer.forget(&resource("echo")).await.unwrap());
    see(&a, "no restriction any more", |view| view.settings.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_falls_silent_is_a_change_though_nobody_writes_it() {
    let db = Db::new().await;
    let client = db.client().await;
    let a = db.agent("a");
    leads(&a).await;
    let observer = observer(&db).await;
    observed(&observer, "a leads", |view| view.lease.fresh).await;
    // Its connection goes, and its URI leads nowhere from now on.
    client.execute("ALTER DATABASE postgres SET pollux.nothing = ''", &[]).await.unwrap();
    let changed = observed(&observer, "the lease has run out", |view| !view.lease.fresh);
    let killed = async {
        let runs_out =
            "UPDATE pollux.lease SET holder = 'somebody who died', expires_at = clock_timestamp() + interval '4 s'";
        client.execute(runs_out, &[]).await.unwrap();
        a.set_ready(false);
    };
    let (view, ()) = tokio::join!(changed, killed);
    assert_eq!(view.lease.holder.unwrap().id, "somebody who died");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_observer_comes_back_after_a_restart_and_says_look_at_everything() {
    let server = Server::start(&Options::default()).unwrap();
    let db = Db::on(&server).await;
    let observer = observer(&db).await;
    let mut changes = observer.changes();
    let mut state = observer.state();
    server.stop(Stop::Fast).unwrap();
    timeout(PATIENCE, state.wait_for(|state| matches!(state, ObserverState::Down { .. }))).await.unwrap().unwrap();
    let e = observer.bot(&resource("echo")).await.unwrap_err();
    assert!(e.is_transient(), "{e}");
    server.start_again().unwrap();
    timeout(PATIENCE, state.wait_for(|state| *state == ObserverState::Up)).await.unwrap().unwrap();
    let look = timeout(PATIENCE, changes.next()).await.expect("it says so");
    assert_eq!(look, Some(Look::All));
    assert_eq!(observer.bot(&resource("echo")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_handovers_is_bounded() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    client
        .batch_execute("SELECT pollux.log(l, e * 7, 'Manual', 'free', NULL, NULL, NULL) FROM pollux.lease l, generate_series(2, 300) e")
        .await
        .unwrap();
    // What comes with each handover, when it is over.
    client
        .batch_execute("SELECT pollux.gap(bot_id, server, token_digest, holder, 2100, 0) FROM pollux.lease")
        .await
        .unwrap();
    until(&client, "the newest 200 stay", "SELECT count(*) = 200 AND max(epoch) = 2100 FROM pollux.handover").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_proves_what_sslmode_says() {
    let issue = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::generate_simple_self_signed(names).unwrap()
    };
    let (good, other) = (issue(&["localhost", "127.0.0.1"]), issue(&["elsewhere.example"]));
    let db = Db::new().await;
    let file = |name: &str, pem: String| {
        let path = db.path(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (good_ca, other_ca) = (file("good.pem", good.cert.pem()), file("other.pem", other.cert.pem()));
    let serve = |key: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let tls = Tls { cert: key.cert.pem(), key: key.signing_key.serialize_pem() };
        Server::start(&Options { tls: Some(tls), ..Options::default() }).unwrap()
    };
    let (server, misnamed) = (serve(&good), serve(&other));
    let try_it = async |server: &Server, parameters: &str| {
        let uri = format!("{}?{parameters}", server.uri());
        Admin::connect(&Database::parse(&uri).unwrap()).await.map(drop)
    };
    let full = format!("sslmode=verify-full&sslrootcert={good_ca}");
    for right in ["", "sslmode=disable", "sslmode=require", &full, &format!("sslmode=verify-ca&sslrootcert={good_ca}")]
    {
        try_it(&server, right).await.unwrap_or_else(|e| panic!("{right}: {e}"));
    }
    try_it(&misnamed, &format!("sslmode=verify-ca&sslrootcert={other_ca}")).await.unwrap();
    for (server, wrong) in [
        (&server, format!("sslmode=verify-full&sslrootcert={other_ca}")),
        (&server, format!("sslmode=verify-ca&sslrootcert={other_ca}")),
        (&server, "sslmode=verify-full".to_owned()),
        (&misnamed, format!("sslmode=verify-full&sslrootcert={other_ca}")),
        (&misnamed, full),
    ] {
        match try_it(server, &wrong).await {
            Err(e @ Error::Tls(_)) => assert!(!e.is_transient(), "{wrong}: {e}"),
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let missing = try_it(&server, "sslmode=verify-full&sslrootcert=/nowhere").await.unwrap_err();
    assert!(missing.to_string().contains("/nowhere"), "{missing}");
}

const FORCED: &str =
    "SELECT reason = 'ForcedRelease' AND forced ->> 'who' = 'ann' AND forced ->> 'why' = 'it answers nobody'
                        AND from_party ->> 'pod' = 'a' FROM pollux.handover WHERE epoch = 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_taken_from_its_leader_goes_to_the_next_one_and_it_is_noted_who_asked() {
    let db = Db::new().await;
    let client = db.client().await;
    let admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    let release = async || admin.force_release(&resource("echo"), "ann", "it answers nobody").await.unwrap();
    assert!(!release().await, "nobody leads");
    let a = db.agent("a");
    leads(&a).await;
    let b = db.agent("b");
    stands_by(&b).await;
    assert!(release().await);
    assert_eq!(leads(&b).await, 2);
    see(&a, "a stands by", |view| view.role.epoch().is_none() && view.epoch == 2).await;
    until(&client, "it is noted", FORCED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_hears_of_nothing_loses_a_lease_that_is_taken_from_it_at_its_fence() {
    let db = Db::new().await;
    let client = db.client().await;
    let admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    let a = db.agent("a");
    leads(&a).await;
    // From here on somebody has the lease who only renews.
    client.execute("UPDATE pollux.lease SET holder = 'deaf', renew_seq = renew_seq + 1", &[]).await.unwrap();
    let b = db.agent("b");
    stands_by(&b).await;
    a.shutdown().await;
    let renew = "SELECT (pollux.renew(bot_id, server, token_digest, 'deaf', pollux.incarnation(), epoch, renew_seq, ttl_ms,
                        NULL, NULL, renew_seq, true, false,
                        '{\"cluster\": \"c\", \"namespace\": \"shop\", \"name\": \"echo\", \"pod\": \"a\", \"pod_uid\": \"\",
                          \"node\": \"n\", \"revision\": \"r1\", \"locked\": false}', NULL) ->> 'done')::boolean
                   FROM pollux.lease";
    let renewed = async || client.query_one(renew, &[]).await.unwrap().get::<_, bool>(0);
    assert!(renewed().await);
    assert!(admin.force_release(&resource("echo"), "ann", "it answers nobody").await.unwrap());
    assert!(!renewed().await, "not once more");
    assert_eq!(leads(&b).await, 2);
    until(&client, "it is noted", FORCED).await;
}
