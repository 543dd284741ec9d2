//! `grant` against a real PostgreSQL and an API server of a few lines.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use http::Method;
use http::request::Parts;
use pollux_postgres::{Options, Server, Stop};
use serde_json::{Value, json};

use super::*;
use crate::fake_api::{self, failure};

/// Keeps Secrets, and counts how often one was written.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Value>,
    writes: usize,
}

impl FakeApi {
    fn client(&self) -> Client {
        let api = self.clone();
        fake_api::client(move |head, body| api.answer(head, body))
    }

    fn answer(&self, head: &Parts, secret: Value) -> (u16, Value) {
        let path = head.uri.path().to_owned();
        let mut state = self.0.lock().expect("not poisoned");
        let found = match head.method {
            Method::PATCH => {
                assert!(head.uri.query().is_some_and(|query| query.contains("fieldManager=pollux-grant")));
                state.writes += 1;
                state.secrets.insert(path.clone(), secret.clone());
                Some(secret)
            }
            Method::GET if path == "/api/v1/namespaces/kube-system" => {
                Some(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "u1"}}))
            }
            Method::GET => state.secrets.get(&path).cloned(),
            ref other => panic!("{other} {path}"),
        };
        found.map_or_else(|| failure(404, "NotFound", ""), |found| (200, found))
    }

    fn writes(&self) -> usize {
        self.0.lock().expect("not poisoned").writes
    }

    fn database(&self, namespace: &str) -> Database {
        let state = self.0.lock().expect("not poisoned");
        let secret = &state.secrets[&format!("/api/v1/namespaces/{namespace}/secrets/pollux-lease")];
        let secret: Secret = serde_json::from_value(secret.clone()).expect("a Secret");
        let uri = secret.data.expect("data").remove(KEY).expect("a URI");
        Database::parse(std::str::from_utf8(&uri.0).expect("UTF-8")).expect("a URI")
    }
}

/// A server that asks for passwords, but not the superuser's.
struct Postgres {
    server: Server,
    _hba: tempfile::NamedTempFile,
}

impl Postgres {
    fn start() -> Self {
        let hba = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(hba.path(), "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
            .expect("a file");
        // PostgreSQL may run as another user than this test.
        std::fs::set_permissions(hba.path(), std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let settings = vec![("hba_file".to_owned(), hba.path().display().to_string())];
        let server = Server::start(&Options { settings, ..Options::default() }).expect("PostgreSQL");
        Self { server, _hba: hba }
    }

    /// A database whose owner may make roles and is no superuser, as the documentation asks for.
    async fn owned_database(&self) -> Database {
        let uri = self.server.create_database("leases").expect("a database");
        let (superuser, connection) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await.expect("a session");
        let connection = tokio::spawn(connection);
        let sql = "CREATE ROLE pollux LOGIN CREATEROLE PASSWORD 'secret'; GRANT CREATE ON DATABASE leases TO pollux";
        superuser.batch_execute(sql).await.expect("an owner");
        drop(superuser);
        connection.await.expect("no panic").expect("an orderly end");
        Database::parse(&uri).expect("a URI").with_login("pollux", "secret")
    }
}

fn args(owner: &Database, namespaces: &[&str]) -> (GrantArgs, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), owner.to_uri()).expect("a file");
    let args = GrantArgs {
        namespaces: namespaces.iter().map(|&namespace| namespace.to_owned()).collect(),
        database_file: file.path().to_owned(),
        host: None,
        secret: "pollux-lease".to_owned(),
        cluster: None,
        connection_limit: 80,
        tenant: None,
        no_tenant: false,
        timeout_seconds: 20,
    };
    (args, file)
}

#[tokio::test]
async fn agents_can_log_in_with_what_the_secret_holds() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let api = FakeApi::default();
    let (args, _file) = args(&owner, &["bots", "more-bots"]);
    grant_all(&args, &api.client()).await.expect("credentials");

    let (one, other) = (api.database("bots"), api.database("more-bots"));
    assert_ne!(one.user(), other.user());
    assert_ne!(one.password(), other.password());
    for database in [one, other] {
        assert!(database.same_server(&owner));
        admin::check_agent(&database).await.expect("an agent could work");
        // The owner's work is refused to agents: making roles, changing the schema.
        let mut agent = Admin::connect(&database).await.expect("a login");
        let refused = agent.grant_role("pollux_thief", "x", 2).await.expect_err("an agent made a role");
        assert!(!refused.is_transient(), "{refused}");
    }
}

#[tokio::test]
async fn a_namespace_becomes_a_tenants_stays_it_and_becomes_nobodys_again() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let api = FakeApi::default();
    let (mut args, _file) = args(&owner, &["bots", "more-bots"]);
    let bound = || {
        let sql = "SELECT string_agg(concat_ws(' ', s.cluster, s.namespace, s.tenant, l.tenant, l.name), ',' ORDER BY s.namespace)
                     FROM pollux.scope s JOIN pollux.login l ON starts_with(l.name, 'pollux_' || replace(s.namespace, '-', '_'))";
        postgres.server.ask("leases", sql).expect("an answer")
    };
    let roles = ["bots", "more-bots"].map(|namespace| role_name("u1", namespace));
    let expected = format!("u1 bots shop shop {},u1 more-bots shop shop {}", roles[0], roles[1]);
    args.tenant = Some("shop".to_owned());
    grant_all(&args, &api.client()).await.expect("a tenant's credentials");
    assert_eq!(bound(), expected);
    admin::check_agent(&api.database("bots")).await.expect("an agent could work");
    // The chart's Job knows no tenants.
    args.tenant = None;
    for _ in 0..2 {
        grant_all(&args, &api.client()).await.expect("credentials again");
        assert_eq!(bound(), expected);
    }
    args.no_tenant = true;
    for _ in 0..2 {
        grant_all(&args, &api.client()).await.expect("nobody's credentials");
        assert_eq!(bound(), "");
    }
    assert_eq!(api.writes(), 2, "the Secrets stay what they are");
}

#[tokio::test]
async fn a_second_run_writes_nothing_and_keeps_the_password() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let api = FakeApi::default();
    let (args, _file) = args(&owner, &["bots"]);
    grant_all(&args, &api.client()).await.expect("credentials");
    let before = api.database("bots");
    grant_all(&args, &api.client()).await.expect("credentials again");
    assert_eq!(api.writes(), 1);
    assert!(api.database("bots") == before);
}

#[tokio::test]
async fn a_lost_database_is_mended_without_a_new_password() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let api = FakeApi::default();
    let (first, _file) = args(&owner, &["bots"]);
    grant_all(&first, &api.client()).await.expect("credentials");
    let before = api.database("bots");

    // Another server, with nothing in it but the owner, under another address.
    let empty = Postgres::start();
    let owner = empty.owned_database().await;
    let (second, _file) = args(&owner, &["bots"]);
    grant_all(&second, &api.client()).await.expect("credentials again");
    let after = api.database("bots");
    assert_eq!((after.user(), after.password()), (before.user(), before.password()));
    assert!(after.same_server(&owner));
    admin::check_agent(&after).await.expect("an agent could work");
}

#[tokio::test]
async fn a_namespace_that_fails_does_not_keep_the_others_from_being_done() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let api = FakeApi::default();
    let mut theirs = secret("taken", "pollux-lease", "postgresql://a:b@c/d");
    theirs.metadata.labels = None;
    let path = "/api/v1/namespaces/taken/secrets/pollux-lease".to_owned();
    api.0.lock().expect("not poisoned").secrets.insert(path, serde_json::to_value(&theirs).expect("JSON"));
    let (args, _file) = args(&owner, &["taken", "bots"]);
    let error = grant_all(&args, &api.client()).await.expect_err("a Secret of somebody else");
    assert!(error.to_string().contains("taken") && !error.to_string().contains("bots"), "{error:#}");
    admin::check_agent(&api.database("bots")).await.expect("an agent could work");
    assert_eq!(api.database("taken").user(), "a");
}

#[tokio::test]
async fn a_database_that_is_not_there_yet_is_waited_for() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    postgres.server.stop(Stop::Fast).expect("an end");
    let api = FakeApi::default();
    let (args, _file) = args(&owner, &["bots"]);
    let client = api.client();
    let granting = grant_all(&args, &client);
    let starting = async {
        // The other side is polled first and meets a closed door before this one does.
        let error = Admin::connect(&owner).await.expect_err("it is down");
        assert!(error.is_transient(), "{error}");
        postgres.server.start_again().expect("a server");
    };
    let (granted, ()) = tokio::join!(biased; granting, starting);
    granted.expect("credentials");
}

#[tokio::test]
async fn an_owner_that_is_refused_is_not_waited_for() {
    let postgres = Postgres::start();
    let owner = postgres.owned_database().await;
    let wrong = owner.clone().with_login(owner.user(), "not-this");
    let (args, _file) = args(&wrong, &["bots"]);
    let start = Instant::now();
    let error = grant_all(&args, &FakeApi::default().client()).await.expect_err("another password");
    assert!(start.elapsed() < Duration::from_secs(args.timeout_seconds), "it waited");
    let said = format!("{error:#}");
    assert!(said.contains("refuses the owner"), "{said}");
    assert!(!said.contains("not-this"), "the password is in the message");
}
