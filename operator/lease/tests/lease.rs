//! Agents among themselves, on a real PostgreSQL.

mod support;

use std::time::Duration;

use pollux_lease::admin::Admin;
use pollux_lease::{
    BootInstant, Database, DatabaseState, DrainReport, Evidence, HandOver, HandedOver, Lease, Reason, Role, TokenDigest,
};
use serde_json::json;
use support::{Db, PATIENCE, TOKEN, TTL, config, leads, ready, see, stands_by, until};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, NoTls};

/// An agent that can be killed without leaving the process: its tasks end where they stand, and its files are closed.
struct Mortal {
    runtime: Runtime,
    lease: Lease,
}

impl Mortal {
    fn spawn(config: pollux_lease::Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lease = {
            let _inside = runtime.enter();
            ready(config)
        };
        Self { runtime, lease }
    }

    async fn kill(self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(|| runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    }
}

fn order() -> HandOver {
    HandOver::new(Reason::PodDeleted)
}

/// Users' own tables know the epochs of a database that was lost, and refuse lower ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_made_anew_goes_on_above_the_epochs_of_the_lost_one() {
    let mut last = 0;
    for _ in 0..2 {
        let db = Db::new().await;
        // As it is for users.
        db.client().await.batch_execute("DROP SCHEMA pollux CASCADE").await.unwrap();
        Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap().migrate().await.unwrap();
        let a = db.agent("a");
        let first = leads(&a).await;
        assert!(first > last, "{first} after {last}");
        let b = db.agent("b");
        stands_by(&b).await;
        assert_eq!(a.hand_over(order()).await, HandedOver::To { pod: "b".into(), epoch: first + 1 });
        last = first + 1;
    }
    assert!(last < 1 << 53, "JavaScript can count to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_handover_gives_the_lease_and_logs_drain_and_gap() {
    let db = Db::new().await;
    let a = db.agent("a");
    assert_eq!(leads(&a).await, 1);
    let b = db.agent("b");
    stands_by(&b).await;
    see(&a, "a sees its successor", |view| view.successor.as_deref() == Some("b")).await;
    a.expect_handover(true);
    let last_poll_ended = BootInstant::now();
    let drain =
        DrainReport { took: Duration::from_millis(1200), outcome: "timed_out".into(), unacknowledged: 3, owed: 2 };
    let order = HandOver { drain: Some(drain), last_poll_ended: Some(last_poll_ended), ..order() };
    let outcome = a.hand_over(order).await;
    assert_eq!(outcome, HandedOver::To { pod: "b".into(), epoch: 2 });
    assert_eq!(a.view().borrow().role, Role::Standby);
    assert_eq!(leads(&b).await, 2);
    let first_poll = BootInstant::now();
    b.first_poll(first_poll);
    let client = db.client().await;
    until(
        &client,
        "both halves of the gap are logged",
        "SELECT old_us > 0 AND new_us >= 0 FROM pollux.handover WHERE epoch = 2",
    )
    .await;
    let row = client
        .query_one(
            "SELECT reason, evidence, drain_ms, old_us + new_us, drain_outcome, unacknowledged, owed FROM pollux.handover
              WHERE epoch = 2",
            &[],
        )
        .await
        .unwrap();
    let (reason, evidence, drain): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((reason.as_str(), evidence.as_str(), drain), ("PodDeleted", "handover", 1200));
    let counts: (String, i32, i32) = (row.get(4), row.get(5), row.get(6));
    assert_eq!(counts, ("timed_out".to_owned(), 3, 2));
    let gap = Duration::from_micros(u64::try_from(row.get::<_, i64>(3)).unwrap());
    let real = first_poll - last_poll_ended;
    assert!(gap.abs_diff(real) < Duration::from_millis(20), "logged {gap:?}, measured on one clock {real:?}");
    let takeover = b.view().borrow().takeover.clone().unwrap();
    assert_eq!((takeover.from.as_deref(), takeover.evidence), (Some("a"), Evidence::Handover));
    println!("gap {real:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_notify_nobody_and_stay_heap_only() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    see(&a, "the lease is at rest", |view| matches!(view.database, DatabaseState::Up { .. })).await;
    let (client, mut connection) = tokio_postgres::connect(&db.owner, NoTls).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(n) = message {
                let _ = heard.send(n.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN pollux; LISTEN pollux_4242").await.unwrap();
    let seq: i64 = client.query_one("SELECT renew_seq FROM pollux.lease", &[]).await.unwrap().get(0);
    until(&client, "it renews", &format!("SELECT renew_seq > {} FROM pollux.lease", seq + 5)).await;
    client.batch_execute("NOTIFY pollux, 'mine'").await.unwrap();
    // The agent's own first notification, by which it finds out that they arrive, may come first.
    loop {
        match timeout(PATIENCE, hears.recv()).await.expect("the last one arrives").unwrap().as_str() {
            "mine" => break,
            payload => assert!(payload.len() == 32 && payload.bytes().all(|b| b.is_ascii_hexdigit()), "{payload}"),
        }
    }
    let heap_only =
        "SELECT n_tup_upd >= 6 AND n_tup_upd = n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'lease'";
    until(&client, "updates are heap-only", heap_only).await;
}

/// Not a test: prints how long handovers take here. `cargo test -p pollux-lease --test lease -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_a_handover_takes() {
    let db = Db::new().await;
    let mut agents = [db.agent("a"), db.agent("b")];
    leads(&agents[0]).await;
    stands_by(&agents[1]).await;
    let mut took = Vec::new();
    for _ in 0..200 {
        let [from, to] = &agents;
        from.expect_handover(true);
        see(from, "a successor", |view| view.successor.is_some()).await;
        // The time that a drain gives candidates to beat often.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let start = BootInstant::now();
        let (outcome, _) = tokio::join!(from.hand_over(order()), leads(to));
        assert!(outcome.to_pod().is_some());
        let Role::Leader { since, .. } = to.view().borrow().role else { panic!("it leads") };
        took.push(since - start);
        agents.reverse();
    }
    took.sort();
    println!("order → successor leads: p50 {:?}, p95 {:?}, max {:?}", took[100], took[190], took[199]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_to_another_revision_is_a_rollout() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let mut newer = db.config("b");
    newer.replica.revision = "r2".into();
    let b = ready(newer);
    stands_by(&b).await;
    see(&a, "a sees its successor", |view| view.successor.is_some()).await;
    assert_eq!(a.hand_over(order()).await.to_pod(), Some("b"));
    let client = db.client().await;
    until(&client, "it is logged", "SELECT reason = 'Rollout' FROM pollux.handover WHERE epoch = 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_successor_the_lease_is_released_and_the_next_one_takes_it() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let ended = BootInstant::now();
    assert_eq!(a.hand_over(HandOver { last_poll_ended: Some(ended), ..order() }).await, HandedOver::Released);
    // It is still ready, and its pod stays: the bot must not be left alone because of an order that found nobody.
    assert_eq!(leads(&a).await, 2);
    a.leave();
    assert_eq!(a.hand_over(order()).await, HandedOver::Released);
    let b = db.agent("b");
    assert_eq!(leads(&b).await, 3);
    assert_eq!(a.view().borrow().role, Role::Standby);
    let client = db.client().await;
    let logged = "SELECT reason = 'PodDeleted' AND evidence = 'free' AND from_party ->> 'pod' = 'a'
                  AND to_party ->> 'pod' = 'b' AND idle_us > 0 FROM pollux.handover WHERE epoch = 3";
    until(&client, "release and acquisition are one entry of the log", logged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_to_a_successor_keeps_the_lease_where_there_is_none() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let only = || HandOver { only_to_successor: true, ..HandOver::new(Reason::BotGone) };
    assert_eq!(a.hand_over(only()).await, HandedOver::Kept);
    assert_eq!(leads(&a).await, 1);
    let b = db.agent("b");
    stands_by(&b).await;
    see(&a, "a sees its successor", |view| view.successor.is_some()).await;
    assert_eq!(a.hand_over(only()).await.to_pod(), Some("b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_lead_cannot_hand_over() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let b = db.agent("b");
    stands_by(&b).await;
    assert_eq!(b.hand_over(order()).await, HandedOver::NotLeader);
    assert_eq!(leads(&a).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_ready_neither_takes_nor_is_given_the_lease() {
    let db = Db::new().await;
    let a = Lease::spawn(db.config("a"));
    see(&a, "it has seen the row", |view| view.last_answer.is_some()).await;
    let b = db.agent("b");
    assert_eq!(leads(&b).await, 1);
    assert_eq!(b.hand_over(order()).await, HandedOver::Released, "a is not ready");
    assert_eq!(leads(&b).await, 2);
    a.set_ready(true);
    see(&b, "b sees its successor", |view| view.successor.as_deref() == Some("a")).await;
    a.leave();
    see(&b, "a leaves", |view| view.successor.is_none()).await;
    b.set_ready(false);
    assert_eq!(b.hand_over(order()).await, HandedOver::Released, "a leaves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_within_its_ttl() {
    let db = Db::new().await;
    let a = Mortal::spawn(db.config("a"));
    leads(&a.lease).await;
    let b = db.agent("b");
    stands_by(&b).await;
    a.kill().await;
    let died = BootInstant::now();
    assert_eq!(leads(&b).await, 2);
    let took = BootInstant::now() - died;
    // The lower bound is the safety of it: the dead leader's fence may have lasted that long.
    assert!(took > TTL / 5 * 3, "after {took:?}");
    assert!(took < TTL + Duration::from_millis(1500), "after {took:?}");
    assert_eq!(b.view().borrow().takeover.as_ref().unwrap().evidence, Evidence::Ttl);
    let client = db.client().await;
    until(&client, "it is logged", "SELECT reason = 'LeaseExpired' FROM pollux.handover WHERE epoch = 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_takes_its_pods_lease_at_once_but_not_while_its_predecessor_lives() {
    let db = Db::new().await;
    let in_pod = || pollux_lease::Config { alive_file: Some(db.path("alive")), ..db.config("a") };
    let first = Mortal::spawn(in_pod());
    assert_eq!(leads(&first.lease).await, 1);
    let second = ready(in_pod());
    let view = stands_by(&second).await;
    assert!(view.holder.is_some_and(|holder| !holder.me), "the same pod is not the same process");
    first.kill().await;
    let died = BootInstant::now();
    assert_eq!(leads(&second).await, 2);
    let took = BootInstant::now() - died;
    assert!(took < TTL / 2, "the lock is proof enough: {took:?}");
    assert_eq!(second.view().borrow().takeover.as_ref().unwrap().evidence, Evidence::Pod);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_whose_bot_is_not_ready_frees_the_lease_for_those_who_are() {
    let db = Db::new().await;
    let in_pod = || pollux_lease::Config { alive_file: Some(db.path("alive")), ..db.config("a") };
    let first = Mortal::spawn(in_pod());
    leads(&first.lease).await;
    let b = db.agent("b");
    stands_by(&b).await;
    first.kill().await;
    let died = BootInstant::now();
    let _restarted = Lease::spawn(in_pod());
    assert_eq!(leads(&b).await, 2);
    let took = BootInstant::now() - died;
    assert!(took < TTL / 2, "after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_successors() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let candidate = |pod: &str, revision: &str, node: &str, name: &str| {
        let mut config = db.config(pod);
        config.replica.revision = revision.into();
        config.replica.node = node.into();
        config.replica.resource = support::resource(name);
        ready(config)
    };
    let client = db.client().await;
    client.execute("SELECT pollux.put_setting('c', 'shop', 'echo', 1, '{r2,r1}', '{}')", &[]).await.unwrap();
    // From the last choice to the first: another resource; the second revision, on my node and on another; the first revision.
    let mut waiting = Vec::new();
    for (pod, revision, node, name) in [
        ("other", "r2", "n9", "other"),
        ("old-here", "r1", "node-of-a", "echo"),
        ("old-there", "r1", "n2", "echo"),
        ("new", "r2", "node-of-a", "echo"),
        ("newer-but-later", "r2", "node-of-a", "echo"),
    ] {
        let lease = candidate(pod, revision, node, name);
        let known = format!("SELECT bool_or(ready) FROM pollux.candidate WHERE pod = '{pod}'");
        until(&client, "it is known", &known).await;
        waiting.push(lease);
    }
    // What nobody may choose at all.
    waiting.push(candidate("unwanted", "r0", "n3", "echo"));
    until(&client, "it is known", "SELECT bool_or(ready) FROM pollux.candidate WHERE pod = 'unwanted'").await;
    let order = "SELECT s.pod FROM pollux.candidate c, pollux.successor(c, NULL, '1 min') s WHERE c.pod = 'a'";
    let mut found: Vec<String> = Vec::new();
    while let Some(row) = client.query_opt(order, &[]).await.unwrap() {
        found.push(row.get(0));
        assert!(found.len() <= 6, "{found:?}");
        // It is passed over from now on; its own beats, whose numbers are lower, change nothing any more.
        let pass_over = "UPDATE pollux.candidate SET ready = false, beat = beat + 1000000 WHERE pod = $1";
        client.execute(pass_over, &[&found.last()]).await.unwrap();
    }
    assert_eq!(found, ["new", "newer-but-later", "old-there", "old-here", "other"]);
}

/// A bot that is idle drains at once, before its candidates were asked for beats. The pod of the old revision that happens to have
/// beaten last would be the next to go: a rollout of two handovers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_waits_for_the_beat_of_a_better_revision() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    client.execute("SELECT pollux.put_setting('c', 'shop', 'echo', 1, '{r2,r1}', '{}')", &[]).await.unwrap();
    let old = db.agent("old");
    let mut config = db.config("new");
    config.replica.revision = "r2".into();
    let new = ready(config);
    stands_by(&old).await;
    stands_by(&new).await;
    until(&client, "both are known", "SELECT count(*) = 3 FROM pollux.candidate WHERE ready").await;
    // Beats are as old as they are put, and in the same moment the order is given. The agents' own have lower numbers from then on.
    let give = |age_of_new: &'static str| {
        let client = &client;
        async move {
            let script = format!(
                "UPDATE pollux.candidate SET beat = beat + 1000000,
                        beat_at = clock_timestamp() - CASE pod WHEN 'new' THEN interval '{age_of_new}' ELSE interval '0' END;
                 SELECT pollux.handover(4242, l.server, l.token_digest, l.holder, l.incarnation, l.epoch, l.epoch, 2000, NULL, 'wait',
                                        'PodDeleted', NULL) ->> 'done' FROM pollux.lease l;
                 SELECT pod FROM pollux.lease"
            );
            let said = client.simple_query(&script).await.unwrap();
            let rows = said.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            rows.collect::<Vec<_>>()
        }
    };
    assert_eq!(give("1 s").await, ["false", "a"], "it may be alive");
    assert_eq!(give("0").await, ["true", "new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_may_not_lead_neither_acquires_nor_takes_over() {
    let db = Db::new().await;
    let client = db.client().await;
    client.execute("SELECT pollux.put_setting('c', 'shop', 'echo', 1, '{r2}', '{}')", &[]).await.unwrap();
    let old = db.agent("old");
    see(&old, "it has read the setting", |view| view.settings.is_some()).await;
    let mut config = db.config("new");
    config.replica.revision = "r2".into();
    let new = ready(config);
    assert_eq!(leads(&new).await, 1);
    assert_eq!(old.view().borrow().takeover, None);
    // The statement refuses it too, whatever the process thinks.
    let refused = client
        .query_one(
            "SELECT pollux.takeover(4242, 'https://api.telegram.org', l.token_digest, c.id, l.incarnation, l.epoch,
                                    l.epoch, l.renew_seq, 'ttl', 1000, false)
                    ->> 'done' FROM pollux.lease l, pollux.candidate c WHERE c.pod = 'old'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(refused.get::<_, String>(0), "false");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_requests_reach_every_agent_by_notification() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let b = db.agent("b");
    stands_by(&b).await;
    let client = db.client().await;
    let setting = json!({"leaseDurationSeconds": 7, "longPollTimeoutSeconds": 30});
    client.execute("SELECT pollux.put_setting('c', 'shop', 'echo', 9, NULL, $1)", &[&setting]).await.unwrap();
    client.execute("SELECT pollux.put_request('c', 'shop', 'echo', 'q1', 'b')", &[]).await.unwrap();
    for agent in [&a, &b] {
        let view = see(agent, "settings and request", |view| view.settings.is_some() && view.request.is_some()).await;
        let settings = view.settings.unwrap();
        assert_eq!((settings.generation, settings.eligible, settings.json), (9, None, setting.clone()));
        assert_eq!(view.request.unwrap().to_pod, "b");
    }
    until(&client, "the new TTL is in the row", "SELECT ttl_ms = 7000 FROM pollux.lease").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_token_cannot_act() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let stranger = ready(pollux_lease::Config { token: TokenDigest::of("4242:guess"), ..db.config("stranger") });
    let view = see(&stranger, "it is told", |view| view.database.error().is_some()).await;
    let error = view.database.error().unwrap().to_owned();
    assert!(error.contains("another token") && error.contains("PX001"), "{error}");
    assert_eq!(view.holder, None, "nothing is shown to it");
    let client = db.client().await;
    until(&client, "it is not registered", "SELECT count(*) = 1 FROM pollux.candidate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_no_token_cannot_act_either() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    let here = "4242, 'https://api.telegram.org', NULL";
    let row = "(SELECT l FROM pollux.lease l)";
    let who = r#"'{"cluster":"c","namespace":"shop","name":"echo","pod":"p","pod_uid":"u","node":"n","revision":"r","locked":false}'"#;
    for call in [
        format!("look({here}, 'x')"),
        format!("beat({here}, 'x', 1, true, false, {who}, '{{}}')"),
        format!(
            "renew({here}, {row}.holder, {row}.incarnation, {row}.epoch, {row}.renew_seq, 3000, NULL, NULL, 99, true, false, {who}, '{{}}')"
        ),
        format!("acquire({here}, {row}.holder, {row}.incarnation, {row}.epoch, {row}.epoch, 3000)"),
        format!(
            "takeover({here}, {row}.holder, {row}.incarnation, {row}.epoch, {row}.epoch, {row}.renew_seq, 'ttl', 3000, false)"
        ),
        format!("expect_handover({here}, {row}.holder, {row}.epoch, true)"),
        format!(
            "handover({here}, {row}.holder, {row}.incarnation, {row}.epoch, {row}.epoch, 2000, NULL, 'release', 'Manual', NULL)"
        ),
        format!("gap({here}, {row}.holder, {row}.epoch, 1)"),
        format!("rotate({here}, {row}.holder, 'new')"),
        format!("depart({here}, {row}.holder)"),
    ] {
        let e = client.query_one(&format!("SELECT pollux.{call}"), &[]).await.expect_err(&call);
        assert_eq!(e.code().map(|code| code.code()), Some("PX001"), "{call}: {e:?}");
    }
    assert_eq!(a.view().borrow().role.epoch(), Some(1));
}

/// The token was changed twice before the first change was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_rotated_twice_at_once_is_followed_step_by_step() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let client = db.client().await;
    for token in ["4242:second", "4242:third", "4242:fourth"] {
        a.set_token_digest(TokenDigest::of(token));
    }
    let c = ready(pollux_lease::Config { token: TokenDigest::of("4242:fourth"), ..db.config("c") });
    stands_by(&c).await;
    client.execute("UPDATE pollux.lease SET former_until = now()", &[]).await.unwrap();
    let now = BootInstant::now();
    let view = see(&a, "it is still answered", |view| view.last_answer.is_some_and(|at| at > now)).await;
    assert_eq!((view.role.epoch(), view.database.error()), (Some(1), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_changes_neither_leader_nor_epoch() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let b = db.agent("b");
    stands_by(&b).await;
    let client = db.client().await;
    // a sees the new file first, b later.
    a.set_token_digest(TokenDigest::of("4242:rotated"));
    until(&client, "the new digest is in the row", "SELECT former_digest IS NOT NULL FROM pollux.lease").await;
    let seq: i64 = client.query_one("SELECT renew_seq FROM pollux.lease", &[]).await.unwrap().get(0);
    until(&client, "a renews with the new one", &format!("SELECT renew_seq > {} FROM pollux.lease", seq + 1)).await;
    until(
        &client,
        "b beats with the old one",
        "SELECT beat_at > clock_timestamp() - interval '500 ms' FROM pollux.candidate WHERE pod = 'b'",
    )
    .await;
    b.set_token_digest(TokenDigest::of("4242:rotated"));
    let c = ready(pollux_lease::Config { token: TokenDigest::of("4242:rotated"), ..db.config("c") });
    stands_by(&c).await;
    // When the old one is good no more, all of them go on.
    client.execute("UPDATE pollux.lease SET former_until = now()", &[]).await.unwrap();
    for agent in [&a, &b, &c] {
        let now = BootInstant::now();
        let view = see(agent, "it is still answered", |view| view.last_answer.is_some_and(|at| at > now)).await;
        assert_eq!((view.epoch, view.database.error()), (1, None));
    }
    let old = ready(db.config("old"));
    see(&old, "the old token is refused", |view| view.database.error().is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_signs_off_and_frees_its_lease() {
    let db = Db::new().await;
    let a = db.agent("a");
    leads(&a).await;
    let b = db.agent("b");
    stands_by(&b).await;
    timeout(PATIENCE, a.shutdown()).await.expect("it ends");
    assert_eq!(leads(&b).await, 2);
    let client = db.client().await;
    until(&client, "it is not listed any more", "SELECT count(*) = 1 FROM pollux.candidate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_mended_later_is_found_without_a_restart() {
    let db = Db::new().await;
    let file = db.path("later");
    let a = ready(config(file.clone(), "a"));
    let view = see(&a, "it says what is missing", |view| view.database.error().is_some()).await;
    assert!(view.database.error().unwrap().contains("later"), "{:?}", view.database);
    std::fs::write(&file, "postgresql://nobody:nothing@127.0.0.1:1/x").unwrap();
    see(&a, "it says that nobody answers", |view| view.database.error().is_some_and(|e| e.contains("127.0.0.1:1")))
        .await;
    std::fs::write(&file, &db.owner).unwrap();
    leads(&a).await;
    let digest = format!("{:?}", TokenDigest::of(TOKEN));
    assert_eq!(digest, "TokenDigest(..)");
}
