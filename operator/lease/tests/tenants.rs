//! Two tenants on one database. The thief knows everything of the other one's lease: the token's digest, the epoch, the
//! renewal's number, the holder's identity. Every attempt is repeated by the rightful agent, and then it works: none fails
//! because it is malformed.

mod support;

use std::time::Duration;

use pollux_lease::admin::Admin;
use pollux_lease::{BootInstant, Config, Database, Observer, ObserverState, Replica, Resource};
use serde_json::Value;
use support::{Db, PATIENCE, connect, leads, ready, resource, see, until};
use tokio::time::timeout;
use tokio_postgres::{Client, Error};

/// What no attempt may change.
const THEIRS: &str = "SELECT jsonb_build_array(
    (SELECT jsonb_agg(l) FROM pollux.lease l WHERE tenant = 'x'), (SELECT jsonb_agg(c) FROM pollux.candidate c WHERE tenant = 'x'),
    (SELECT jsonb_agg(h) FROM pollux.handover h WHERE tenant = 'x'), (SELECT jsonb_agg(s) FROM pollux.setting s),
    (SELECT jsonb_agg(r) FROM pollux.request r), (SELECT jsonb_agg(o) FROM pollux.scope o), (SELECT jsonb_agg(g) FROM pollux.login g))::text";

/// Tenant x, whose agent `a` leads in the namespace shop while `b` waits, and the thief's tenant y, who calls his own agents so too.
struct Two {
    db: Db,
    owner: Client,
    rightful: Client,
    thief: Client,
}

// === impl Two ===

impl Two {
    async fn new() -> Self {
        let db = Db::new().await;
        let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
        for (tenant, namespace, limit) in [("x", "shop", 20), ("y", "den", 3)] {
            let login = login(&db, tenant);
            admin.grant_role(login.user(), "p", limit).await.unwrap();
            assert!(admin.put_tenant(login.user(), "c", namespace, Some(tenant)).await.unwrap());
        }
        let (owner, rightful) = (db.client().await, connect(&login(&db, "x").to_uri()).await);
        let thief = connect(&login(&db, "y").to_uri()).await;
        let two = Self { db, owner, rightful, thief };
        for (client, place) in [(&two.rightful, "{shop}"), (&two.thief, "{den}")] {
            for id in ["a", "b"] {
                let beat = format!("SELECT pollux.beat({{bot}},'{id}',1,true,false,{place},'{{}}')");
                two.run(client, &beat).await.unwrap();
            }
        }
        let first = two.run(&two.rightful, "SELECT pollux.acquire({bot},'a',{known},0,0,10000)").await.unwrap();
        assert_eq!(first["done"], true, "{first}");
        two
    }

    /// Runs a statement with all that is known of the lease in its places.
    async fn run(&self, client: &Client, template: &str) -> Result<Value, Error> {
        let known: String = self.owner.query_one("SELECT pollux.incarnation()", &[]).await.unwrap().get(0);
        let seq = self.owner.query_opt("SELECT renew_seq FROM pollux.lease WHERE tenant = 'x'", &[]).await.unwrap();
        let seq: i64 = seq.map_or(0, |row| row.get(0));
        let place = |namespace| {
            format!(
                r#"'{{"cluster":"c","namespace":"{namespace}","name":"echo","pod":"p","pod_uid":"u","node":"n","revision":"r1","locked":true}}'"#
            )
        };
        let sql = template
            .replace("{bot}", r"4242,'s','\x77'")
            .replace("{known}", &format!("'{known}'"))
            .replace("{seq}", &seq.to_string())
            .replace("{shop}", &place("shop"))
            .replace("{den}", &place("den"));
        Ok(client.query_one(&sql, &[]).await?.get(0))
    }

    async fn says(&self, sql: &str) -> bool {
        self.owner.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn theirs(&self) -> String {
        self.owner.query_one(THEIRS, &[]).await.unwrap().get(0)
    }

    /// The thief tries it, and the other tenant's rows stay what they are, and are not in the answer. The rightful agent does the
    /// very same, and `worked` becomes true.
    async fn only_the_rightful(&self, template: &str, worked: &str) {
        let (before, worked) = (self.theirs().await, format!("SELECT {worked}"));
        assert!(!self.says(&worked).await, "{worked}: it cannot show anything");
        match self.run(&self.thief, template).await {
            Ok(answer) => assert!(!answer.to_string().contains("shop"), "{answer}"),
            Err(e) => assert!(["PX001", "PX003"].contains(&code(&e).as_str()), "{e:?}"),
        }
        assert_eq!(self.theirs().await, before);
        let answer = self.run(&self.rightful, template).await.unwrap();
        assert!(answer.to_string().contains("shop") || answer == serde_json::json!({"done": true}), "{answer}");
        assert!(self.says(&worked).await, "{template} does not work for the rightful one either: {answer}");
    }

    /// Refused to the thief for want of a right, and nothing wrong with it.
    async fn only_the_owner(&self, sql: &str) {
        let before = self.theirs().await;
        self.thief.batch_execute("BEGIN").await.unwrap();
        let e = self.thief.batch_execute(sql).await.expect_err(sql);
        self.thief.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(code(&e), "42501", "{sql}: {e:?}");
        assert_eq!(self.theirs().await, before);
        self.owner.batch_execute(&format!("BEGIN; {sql}; ROLLBACK")).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

fn login(db: &Db, tenant: &str) -> Database {
    Database::parse(&db.owner).unwrap().with_login(&format!("{tenant}_{}", db.name), "p")
}

fn code(e: &Error) -> String {
    e.code().map_or_else(|| format!("{e:?}"), |code| code.code().to_owned())
}

fn lease(what: &str) -> String {
    format!("EXISTS (SELECT FROM pollux.lease WHERE tenant = 'x' AND {what})")
}

// === attempts on the lease ===

#[tokio::test]
async fn another_tenants_lease_is_not_seen() {
    let two = Two::new().await;
    let look = "SELECT pollux.look({bot},'a')";
    let seen = two.run(&two.thief, look).await.unwrap();
    assert_eq!((&seen["lease"]["holder"], &seen["lease"]["epoch"]), (&Value::Null, &0.into()), "his own: {seen}");
    assert!(!seen.to_string().contains("shop"), "{seen}");
    assert_eq!(two.run(&two.rightful, look).await.unwrap()["lease"]["holder"], "a");
}

#[tokio::test]
async fn another_tenants_lease_is_not_renewed_with_the_right_epoch() {
    let renew = "SELECT pollux.renew({bot},'a',{known},1,{seq},5000,NULL,NULL,9,true,false,{shop},NULL)";
    Two::new().await.only_the_rightful(renew, &lease("ttl_ms = 5000")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_taken_over_as_silent() {
    let takeover = "SELECT pollux.takeover({bot},'b',{known},0,1,{seq},'ttl',5000,false)";
    Two::new().await.only_the_rightful(takeover, &lease("holder = 'b' AND epoch = 2")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_taken_over_as_that_of_the_own_pod() {
    let takeover = "SELECT pollux.takeover({bot},'b',{known},0,1,{seq},'pod',5000,false)";
    Two::new().await.only_the_rightful(takeover, &lease("holder = 'b' AND epoch = 2")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_taken_over_for_the_end_of_a_session() {
    let two = Two::new().await;
    two.owner.batch_execute("UPDATE pollux.lease SET session_key = 7, session_fence_ms = 1000").await.unwrap();
    let takeover = "SELECT pollux.takeover({bot},'b',{known},0,1,{seq},'session',5000,false)";
    two.only_the_rightful(takeover, &lease("holder = 'b' AND epoch = 2")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_taken_when_it_is_free() {
    let two = Two::new().await;
    two.owner.batch_execute("UPDATE pollux.lease SET holder = NULL WHERE tenant = 'x'").await.unwrap();
    two.only_the_rightful("SELECT pollux.acquire({bot},'b',{known},1,1,5000)", &lease("holder = 'b'")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_freed_in_the_name_of_its_pod() {
    let vacate = "SELECT pollux.takeover({bot},'b',{known},0,1,{seq},'pod',5000,true)";
    Two::new().await.only_the_rightful(vacate, &lease("holder IS NULL")).await;
}

#[tokio::test]
async fn another_tenants_lease_is_not_handed_over() {
    let order = "SELECT pollux.handover({bot},'a',{known},0,1,5000,NULL,'release','Manual',NULL)";
    Two::new().await.only_the_rightful(order, &lease("holder IS DISTINCT FROM 'a'")).await;
}

#[tokio::test]
async fn another_tenants_agents_are_not_put_into_a_hurry() {
    Two::new()
        .await
        .only_the_rightful("SELECT pollux.expect_handover({bot},'a',1,true)", &lease("handover_expected"))
        .await;
}

#[tokio::test]
async fn another_tenants_digest_is_not_forced() {
    Two::new()
        .await
        .only_the_rightful(r"SELECT pollux.rotate({bot},'a','\x01')", &lease(r"token_digest = '\x01'"))
        .await;
}

#[tokio::test]
async fn another_tenants_deserted_lease_is_not_adopted_by_a_beat() {
    let two = Two::new().await;
    let deserted = "UPDATE pollux.lease SET expires_at = clock_timestamp() - interval '1 h';
                    UPDATE pollux.candidate SET beat_at = clock_timestamp() - interval '1 h'";
    two.owner.batch_execute(deserted).await.unwrap();
    let beat = r"SELECT pollux.beat(4242,'s','\x02','a',9,true,false,{shop},NULL)";
    two.only_the_rightful(beat, &lease(r"token_digest = '\x02'")).await;
}

// === attempts on its candidates and its log ===

#[tokio::test]
async fn another_tenants_candidate_is_not_made_to_look_unready() {
    let beat = "SELECT pollux.beat({bot},'b',9,false,true,{shop},NULL)";
    let unready = "EXISTS (SELECT FROM pollux.candidate WHERE tenant = 'x' AND leaving AND NOT ready)";
    Two::new().await.only_the_rightful(beat, unready).await;
}

#[tokio::test]
async fn another_tenants_candidate_is_not_signed_off() {
    let gone = "NOT EXISTS (SELECT FROM pollux.candidate WHERE tenant = 'x' AND id = 'b')";
    Two::new().await.only_the_rightful("SELECT pollux.depart({bot},'b')", gone).await;
}

#[tokio::test]
async fn a_candidate_is_not_forged_for_another_tenants_namespace() {
    let two = Two::new().await;
    let forged = "SELECT pollux.beat({bot},'forged',1,true,false,{shop},'{}')";
    let e = two.run(&two.thief, forged).await.expect_err("he speaks for the shop");
    assert_eq!(code(&e), "PX003");
    let there = "EXISTS (SELECT FROM pollux.candidate WHERE namespace = 'shop' AND id = 'forged')";
    two.only_the_rightful(forged, there).await;
}

#[tokio::test]
async fn another_tenants_log_is_not_falsified() {
    let noted = "EXISTS (SELECT FROM pollux.handover WHERE tenant = 'x' AND new_us IS NOT NULL)";
    Two::new().await.only_the_rightful("SELECT pollux.gap({bot},'a',1,777)", noted).await;
}

// === attempts past the functions ===

#[tokio::test]
async fn no_table_is_read_or_written() {
    let two = Two::new().await;
    for (table, column) in [
        ("lease", "epoch"),
        ("candidate", "beat"),
        ("setting", "generation"),
        ("request", "to_pod"),
        ("handover", "reason"),
        ("scope", "tenant"),
        ("login", "tenant"),
        ("server", "since"),
        ("migration", "name"),
    ] {
        for sql in [
            format!("SELECT {column} FROM pollux.{table}"),
            format!("UPDATE pollux.{table} SET {column} = {column}"),
            format!("DELETE FROM pollux.{table}"),
            format!("TRUNCATE pollux.{table}"),
            format!("LOCK TABLE pollux.{table} IN ACCESS SHARE MODE"),
            format!("SELECT FROM pollux.{table} FOR KEY SHARE"),
        ] {
            two.only_the_owner(&sql).await;
        }
    }
    let tables = "SELECT count(*) = 9 FROM pg_tables WHERE schemaname = 'pollux'";
    assert!(two.says(tables).await, "a table that is not tried here");
}

#[tokio::test]
async fn settings_requests_and_tenants_are_not_written() {
    let two = Two::new().await;
    for sql in [
        "SELECT pollux.put_setting('c','shop','echo',1,'{r0}','{}')",
        "SELECT pollux.put_request('c','shop','echo','1','p')",
        "SELECT pollux.forget('c','shop','echo')",
        "SELECT pollux.put_tenant(session_user,'c','attic','x')",
    ] {
        two.only_the_owner(sql).await;
    }
}

#[tokio::test]
async fn agents_execute_what_agents_execute_and_nothing_else() {
    let two = Two::new().await;
    let allowed = "SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc
                    WHERE pronamespace = 'pollux'::regnamespace AND has_function_privilege($1::text, oid, 'EXECUTE')";
    let row = two.owner.query_one(allowed, &[&login(&two.db, "y").user()]).await.unwrap();
    let said =
        "acquire beat beat_all depart expect_handover gap handover look protocol renew renew_all rotate takeover";
    assert_eq!(row.get::<_, String>(0), said);
    two.only_the_owner("SELECT pollux.enter_incarnation('x')").await;
    two.only_the_owner("CREATE FUNCTION pollux.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
}

#[tokio::test]
async fn nobody_becomes_somebody_else() {
    let two = Two::new().await;
    let (x, y) = (login(&two.db, "x"), login(&two.db, "y"));
    let pid: i32 = two.rightful.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    two.only_the_owner(&format!("SET LOCAL ROLE {}", x.user())).await;
    two.only_the_owner(&format!("SET SESSION AUTHORIZATION {}", x.user())).await;
    two.only_the_owner(&format!("ALTER ROLE {} PASSWORD 'mine'", x.user())).await;
    two.only_the_owner(&format!("ALTER ROLE {} CONNECTION LIMIT 1000", y.user())).await;
    two.only_the_owner(&format!("GRANT {} TO {}", x.user(), y.user())).await;
    two.only_the_owner(&format!("SELECT pg_cancel_backend({pid})")).await;
    let e =
        two.thief.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).await.expect_err("he ended a session");
    assert_eq!(code(&e), "42501");
    // The group is everybody's, and nobody's tenant.
    two.thief.batch_execute("SET ROLE pollux_agent").await.unwrap();
    assert!(!two.run(&two.thief, "SELECT pollux.look({bot},'a')").await.unwrap().to_string().contains("shop"));
}

#[tokio::test]
async fn tables_and_functions_of_ones_own_do_not_stand_in_for_the_schemas() {
    let two = Two::new().await;
    let shadows = "CREATE TEMP TABLE login (name name, tenant text); INSERT INTO login VALUES (session_user, 'x');
        CREATE FUNCTION pg_temp.tenant() RETURNS text LANGUAGE sql AS $$SELECT 'x'$$;
        CREATE FUNCTION pg_temp.coalesced(text, text) RETURNS text LANGUAGE sql AS $$SELECT 'x'$$;
        CREATE OPERATOR pg_temp.= (LEFTARG = name, RIGHTARG = name, FUNCTION = nameeq);
        SET search_path = pg_temp, pollux, pg_catalog";
    two.thief.batch_execute(shadows).await.unwrap();
    let shadowed = two.thief.query_one("SELECT tenant FROM login", &[]).await.unwrap();
    assert_eq!(shadowed.get::<_, String>(0), "x", "the shadow is found by its name");
    let renew = "SELECT pollux.renew({bot},'a',{known},1,{seq},5000,NULL,NULL,9,true,false,{shop},NULL)";
    two.only_the_rightful(renew, &lease("ttl_ms = 5000")).await;
}

// === attempts to delay ===

#[tokio::test]
async fn a_transaction_that_is_kept_open_delays_only_ones_own_tenant() {
    let two = Two::new().await;
    let acquire = "SELECT pollux.acquire({bot},'a',{known},0,0,10000)";
    two.thief.batch_execute("SET idle_in_transaction_session_timeout = 0; BEGIN").await.unwrap();
    assert_eq!(two.run(&two.thief, acquire).await.unwrap()["done"], true, "he holds a row of the same bot");
    let renew = "SELECT pollux.renew({bot},'a',{known},1,{seq},5000,NULL,NULL,9,true,false,{shop},NULL)";
    assert_eq!(two.run(&two.rightful, renew).await.unwrap()["done"], true);
    // The same by an agent of the own tenant does delay.
    let other = connect(&login(&two.db, "x").to_uri()).await;
    other.batch_execute("BEGIN").await.unwrap();
    assert_eq!(two.run(&other, renew).await.unwrap()["done"], true);
    assert_eq!(code(&two.run(&two.rightful, renew).await.expect_err("it is locked")), "55P03");
}

#[tokio::test]
async fn who_comes_first_after_a_restart_delays_only_his_own_tenant() {
    let two = Two::new().await;
    let restarted = "UPDATE pollux.server SET incarnation = 'earlier'; UPDATE pollux.lease SET incarnation = 'earlier'";
    two.owner.batch_execute(restarted).await.unwrap();
    two.thief.batch_execute("SET idle_in_transaction_session_timeout = 0; BEGIN").await.unwrap();
    two.run(&two.thief, "SELECT pollux.acquire({bot},'a',{known},0,0,10000)").await.unwrap();
    let renew = "SELECT pollux.renew({bot},'a',{known},1,{seq},5000,NULL,NULL,9,true,false,{shop},NULL)";
    assert_eq!(two.run(&two.rightful, renew).await.unwrap()["done"], true);
    let noted = |tenant| format!("SELECT FROM pollux.server WHERE tenant = '{tenant}' FOR UPDATE NOWAIT");
    two.owner.batch_execute(&noted("x")).await.unwrap();
    let e = two.owner.batch_execute(&noted("y")).await.expect_err("he has noted the incarnation");
    assert_eq!(code(&e), "55P03");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_agent_that_is_woken_all_the_time_leads_on() {
    let two = Two::new().await;
    two.owner.batch_execute("DELETE FROM pollux.lease; DELETE FROM pollux.candidate").await.unwrap();
    let agent = ready(support::config(two.db.file(&login(&two.db, "x").to_uri()), "p"));
    assert_eq!(leads(&agent).await, 1);
    let id: String = two.owner.query_one("SELECT holder FROM pollux.lease", &[]).await.unwrap().get(0);
    for _ in 0..200 {
        for payload in ["", &id, r#"{"holder":"b","epoch":99}"#, r#"["c","shop","echo"]"#] {
            let notify = "SELECT pg_notify('pollux_4242', $1), pg_notify('pollux', $1)";
            two.thief.execute(notify, &[&payload]).await.unwrap();
        }
        assert!(agent.view().borrow().role.may_poll(BootInstant::now()));
    }
    let flooded = BootInstant::now();
    let view = see(&agent, "it goes on", |view| view.last_answer.is_some_and(|at| at > flooded)).await;
    assert_eq!((view.role.epoch(), view.database.is_up()), (Some(1), true));
}

#[tokio::test]
async fn who_exhausts_his_sessions_exhausts_only_his_own() {
    let two = Two::new().await;
    let (x, y) = (login(&two.db, "x").to_uri(), login(&two.db, "y").to_uri());
    let more = [connect(&y).await, connect(&y).await];
    let e = tokio_postgres::connect(&y, tokio_postgres::NoTls).await.err().expect("the fourth of three");
    assert_eq!(code(&e), "53300");
    let mut theirs = Vec::new();
    for _ in 0..10 {
        theirs.push(connect(&x).await);
    }
    drop(more);
}

// === a namespace becomes a tenant's, and nobody's again ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_changes_its_tenant_keeps_its_leader() {
    let db = Db::new().await;
    let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    let (owner, login) = (db.client().await, login(&db, "l"));
    admin.grant_role(login.user(), "p", 20).await.unwrap();
    let agent = |pod: &str| ready(support::config(db.file(&login.to_uri()), pod));
    let a = agent("a");
    assert_eq!(leads(&a).await, 1);
    let b = agent("b");
    see(&a, "b waits", |view| view.successor.as_deref() == Some("b")).await;
    for (tenant, name) in [(Some("x"), "x"), (None, "")] {
        assert!(admin.put_tenant(login.user(), "c", "shop", tenant).await.unwrap());
        assert!(!admin.put_tenant(login.user(), "c", "shop", tenant).await.unwrap(), "nothing is left to do");
        let seq: i64 = owner.query_one("SELECT renew_seq FROM pollux.lease", &[]).await.unwrap().get(0);
        let renewed =
            format!("SELECT count(*) = 1 AND bool_and(tenant = '{name}' AND renew_seq > {seq}) FROM pollux.lease");
        until(&owner, "it renews there", &renewed).await;
        until(&owner, "both wait there", &format!("SELECT count(*) = 2 FROM pollux.candidate WHERE tenant = '{name}'"))
            .await;
        assert_eq!(a.view().borrow().role.epoch(), Some(1));
    }
    let bound = owner.query_one("SELECT count(*) FROM pollux.scope, pollux.login", &[]).await.unwrap();
    assert_eq!(bound.get::<_, i64>(0), 0, "undone");
    assert_eq!(a.view().borrow().takeover.as_ref().map(|t| t.evidence.as_str()), Some("free"), "never anything else");
    drop(b);
}

#[tokio::test]
async fn two_leaders_of_one_bot_do_not_become_one_by_an_order() {
    let two = Two::new().await;
    assert_eq!(two.run(&two.thief, "SELECT pollux.acquire({bot},'a',{known},0,0,10000)").await.unwrap()["done"], true);
    let before = two.theirs().await;
    let mut admin = Admin::connect(&Database::parse(&two.db.owner).unwrap()).await.unwrap();
    let e =
        admin.put_tenant(login(&two.db, "y").user(), "c", "den", Some("x")).await.expect_err("the bot is led there");
    assert!(
        e.to_string().contains("led in tenant 'x' too, by shop/echo") && e.to_string().contains("spec.suspend"),
        "{e}"
    );
    assert_eq!(two.theirs().await, before);
    // When the one there is gone, it works, and under an epoch that nobody has led in.
    two.owner.batch_execute("UPDATE pollux.lease SET holder = NULL, epoch = 9 WHERE tenant = 'x'").await.unwrap();
    assert!(admin.put_tenant(login(&two.db, "y").user(), "c", "den", Some("x")).await.unwrap());
    assert!(two.says("SELECT count(*) = 1 AND max(epoch) = 10 AND max(namespace) = 'den' FROM pollux.lease").await);
}

/// Two resources in two namespaces share a bot. If only one of them became somebody else's, the other would find no lease where it
/// looks, and begin a second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_does_not_change_its_tenant_alone_while_another_one_shares_its_bot() {
    let db = Db::new().await;
    let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    let login = login(&db, "l");
    admin.grant_role(login.user(), "p", 20).await.unwrap();
    let agent = |namespace: &str| {
        let config = support::config(db.file(&login.to_uri()), "p");
        let resource = Resource { namespace: namespace.into(), ..resource("echo") };
        ready(Config { replica: Replica { resource, pod: namespace.into(), ..config.replica.clone() }, ..config })
    };
    let shop = agent("shop");
    leads(&shop).await;
    let den = agent("den");
    see(&shop, "the other one waits", |view| view.successor.as_deref() == Some("den")).await;
    for namespace in ["shop", "den"] {
        let e = admin.put_tenant(login.user(), "c", namespace, Some("x")).await.expect_err("it is shared");
        assert!(e.to_string().contains("is shared with") && e.to_string().contains("spec.suspend"), "{e}");
    }
    den.shutdown().await;
    assert!(admin.put_tenant(login.user(), "c", "shop", Some("x")).await.unwrap(), "nobody shares it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_had_registered_for_a_namespace_before_it_was_bound_is_neither_shown_nor_heard() {
    let db = Db::new().await;
    let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    let (early, bound) = (login(&db, "early"), login(&db, "bound"));
    for login in [&early, &bound] {
        admin.grant_role(login.user(), "p", 20).await.unwrap();
    }
    let squatter = ready(support::config(db.file(&early.to_uri()), "squatter"));
    assert_eq!(leads(&squatter).await, 1);
    assert!(admin.put_tenant(bound.user(), "c", "shop", Some("x")).await.unwrap());
    let view = see(&squatter, "it is refused", |view| view.database.error().is_some_and(|e| e.contains("PX003"))).await;
    assert!(view.database.error().unwrap().contains("grant --tenant"), "{:?}", view.database);
    squatter.shutdown().await;
    let free = "UPDATE pollux.lease SET holder = NULL WHERE tenant = 'x'";
    db.client().await.batch_execute(free).await.unwrap();
    let replica = Replica { pod: "p".into(), ..support::config(db.path("none"), "p").replica };
    let agent = ready(Config { replica, ..support::config(db.file(&bound.to_uri()), "p") });
    assert_eq!(leads(&agent).await, 2, "the bot's lease went with its namespace");
    let observer = Observer::spawn(db.file(&db.owner));
    let mut state = observer.state();
    timeout(PATIENCE, state.wait_for(|state| *state == ObserverState::Up)).await.unwrap().unwrap();
    let forged = "INSERT INTO pollux.lease SELECT 'y', bot_id, server, token_digest FROM pollux.lease;
        UPDATE pollux.lease SET (cluster, namespace, name, holder, since) = ('c', 'shop', 'echo', 'forged', now() + interval '1 h') WHERE tenant = 'y';
        INSERT INTO pollux.candidate SELECT (jsonb_populate_record(k, '{\"tenant\": \"y\", \"id\": \"forged\", \"beat_at\": \"2999-01-01\"}')).* FROM pollux.candidate k WHERE k.pod = 'p'";
    db.client().await.batch_execute(forged).await.unwrap();
    for _ in ["while somebody is there", "afterwards"] {
        let view = observer.bot(&resource("echo")).await.unwrap().unwrap();
        assert!(view.candidates.iter().all(|c| c.party.id != "forged"), "{view:?}");
        assert!(view.lease.holder.as_ref().is_none_or(|holder| holder.id != "forged"), "{view:?}");
        db.client().await.batch_execute("DELETE FROM pollux.candidate").await.unwrap();
    }
    assert_eq!(observer.bot(&Resource { namespace: "den".into(), ..resource("echo") }).await.unwrap(), None);
    drop(timeout(Duration::from_secs(5), agent.shutdown()).await);
}
