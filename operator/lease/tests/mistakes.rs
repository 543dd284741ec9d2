//! What people get wrong. Each mistake has one message that says what is wrong and how to mend it, agent and controller say the
//! same, nobody knocks at the server's door faster and faster, and what is mended is found without a restart.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use pollux_lease::admin::{Admin, check_agent};
use pollux_lease::{Database, Error, Lease, Observer, ObserverState};
use pollux_postgres::{Options, Server, Tls};
use support::{Db, PATIENCE, config, connect, fresh_name, ready, see, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

const PASSWORD: &str = "cAnArY";
/// Knocks that are counted.
const KNOCKS: usize = 7;
/// The least that these many take: pauses of 50 ms, doubled each time, cut or drawn out by half.
const CALM: Duration = Duration::from_millis(50 * 0b11_1111 / 2);

/// A mistake.
struct Mistake {
    name: &'static str,
    /// Where the URI with the mistake leads.
    port: u16,
    uri: String,
    /// What the message says is wrong, and how to mend it.
    says: [&'static str; 2],
    /// Waiting may help.
    transient: bool,
    /// The controller cannot make it, or not with this URI.
    only_agents: bool,
    mend: Option<(Client, Vec<String>)>,
    /// Kept for the time of the test.
    _db: Db,
}

/// The way to a port, where each connection is noted.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Vec<Instant>>>);

// === impl Door ===

impl Door {
    async fn open(self, to: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                self.0.lock().unwrap().push(Instant::now());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        port
    }

    /// How long it took until so many had knocked.
    async fn knocked(&self, what: &str) -> Duration {
        let knocking = async {
            loop {
                let knocks = self.0.lock().unwrap().clone();
                if let Some(last) = knocks.get(KNOCKS - 1) {
                    return *last - knocks[0];
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, knocking).await.unwrap_or_else(|_| panic!("{what}: it has given up"))
    }
}

// === impl Mistake ===

impl Mistake {
    /// One of an agent with a role of its own, in a database of its own.
    async fn agents(name: &'static str, says: [&'static str; 2], make: &[&str], mend: &[&str]) -> Self {
        Self::on(server(), name, says, make, mend).await
    }

    /// `make` makes it, `mend` mends it; DB and ROLE stand for the names.
    async fn on(server: &Server, name: &'static str, says: [&'static str; 2], make: &[&str], mend: &[&str]) -> Self {
        let db = Db::on(server).await;
        let login = Database::parse(&db.owner).unwrap().with_login(&format!("role_{}", db.name), PASSWORD);
        let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
        admin.grant_role(login.user(), PASSWORD, 9).await.unwrap();
        let named = |sql: &&str| sql.replace("ROLE_", login.user()).replace("DB_", &db.name);
        let client = db.client().await;
        carry_out(&client, &make.iter().map(named).collect::<Vec<_>>()).await;
        let mend = (!mend.is_empty()).then(|| (client, mend.iter().map(named).collect()));
        let (port, uri) = (server.port(), login.to_uri());
        Self { name, port, uri, says, transient: false, only_agents: false, mend, _db: db }
    }

    /// What the one sees who makes it.
    async fn plays_out(self) {
        let (agents, operators) = (Door::default(), Door::default());
        let through = async |door: &Door| {
            let port = door.clone().open(self.port).await;
            self.uri.replace(&format!(":{}/", self.port), &format!(":{port}/"))
        };
        let (agents_uri, operators_uri) = (through(&agents).await, through(&operators).await);
        let agent = ready(config(self._db.file(&agents_uri), "a"));
        let mut told = vec![self.agent_says(&agent).await];
        if let Ok(database) = Database::parse(&self.uri) {
            let e = check_agent(&database).await.expect_err(self.name);
            assert_eq!(e.is_transient(), self.transient, "{}: {e:?}", self.name);
            told.push(e.to_string());
        }
        let observer = Observer::spawn(self._db.file(&operators_uri));
        if !self.only_agents {
            let mut state = observer.state();
            let down = timeout(PATIENCE, state.wait_for(|state| matches!(state, ObserverState::Down { .. })));
            if let ObserverState::Down { error, .. } = &*down.await.expect(self.name).unwrap() {
                told.push(error.clone());
            }
        }
        println!("{}: {}", self.name, told[0]);
        for text in &told {
            assert!(self.says.iter().all(|part| text.contains(part)), "{}: {text}", self.name);
            assert!(!text.contains(PASSWORD), "{}: {text}", self.name);
        }
        if agents_uri != self.uri {
            let took = agents.knocked(self.name).await;
            assert!(took >= CALM, "{}: the agent knocked {KNOCKS} times in {took:?}", self.name);
            if !self.only_agents {
                let took = operators.knocked(self.name).await;
                assert!(took >= CALM, "{}: the controller knocked {KNOCKS} times in {took:?}", self.name);
            }
        }
        if let Some((client, mend)) = &self.mend {
            self.agent_says(&agent).await;
            carry_out(client, mend).await;
            see(&agent, self.name, |view| view.database.is_up()).await;
        }
    }

    async fn agent_says(&self, agent: &Lease) -> String {
        let says = |error: &str| self.says.iter().all(|part| error.contains(part));
        let view = see(agent, self.name, |view| view.database.error().is_some_and(says)).await;
        view.database.error().unwrap().to_owned()
    }
}

/// One by one: some of them want to be alone.
async fn carry_out(client: &Client, statements: &[String]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

/// A server that says that it is this version, and nothing more.
async fn a_server_of_version(version: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let length = client.read_u32().await?;
                if client.read_u32().await? == 80_877_103 {
                    // It wants encryption, and goes on without.
                    client.write_all(b"N").await?;
                    let length = client.read_u32().await?;
                    client.read_exact(&mut vec![0; length as usize - 4]).await?;
                } else {
                    client.read_exact(&mut vec![0; length as usize - 8]).await?;
                }
                let parameter = ["server_version\0", version, "\0"].concat();
                client.write_all(b"R\0\0\0\x08\0\0\0\0S").await?;
                client.write_u32(4 + u32::try_from(parameter.len()).unwrap()).await?;
                client.write_all(parameter.as_bytes()).await?;
                client.write_all(b"Z\0\0\0\x05I").await?;
                client.read_to_end(&mut Vec::new()).await
            });
        }
    });
    port
}

fn certificate() -> Tls {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    Tls { cert: key.cert.pem(), key: key.signing_key.serialize_pem() }
}

/// Mistakes in the Secret.
async fn in_the_secret() -> Vec<Mistake> {
    let encrypted =
        Box::leak(Box::new(Server::start(&Options { tls: Some(certificate()), ..Options::default() }).unwrap()));
    let role = |says| Mistake::agents("", says, &[], &[]);
    let wrong =
        |name, mistake: Mistake, from: &str, to: &str| Mistake { name, uri: mistake.uri.replace(from, to), ..mistake };
    let no_uri = role(["not a URI of a lease database", "postgresql://"]).await;
    let no_uri = Mistake { name: "no URI", uri: format!("{PASSWORD} is the password"), only_agents: false, ..no_uri };
    let nobody = role(["away", "check that PostgreSQL runs there"]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let uri = nobody.uri.replace(&format!(":{}/", nobody.port), &format!(":{closed}/"));
    let nobody = Mistake { name: "wrong port", port: closed, uri, transient: true, ..nobody };
    let database = role(["does not exist", "correct its name at the end of the URI"]).await;
    let name = database._db.name.clone();
    let database = wrong("wrong database", database, &format!("/{name}"), "/nowhere");
    let tls = Mistake::on(encrypted, "TLS that does not verify", ["certificate", "sslrootcert=FILE"], &[], &[]).await;
    let tls = Mistake { uri: format!("{}?sslmode=verify-full", tls.uri), ..tls };
    let plain = role(["does not support TLS", "ssl = on"]).await;
    let plain = Mistake { name: "no TLS there", uri: format!("{}?sslmode=require", plain.uri), ..plain };
    let password = Mistake::agents(
        "wrong password",
        ["password authentication failed", "password in the Secret is wrong"],
        &["ALTER ROLE ROLE_ PASSWORD 'another'"],
        &[&format!("ALTER ROLE ROLE_ PASSWORD '{PASSWORD}'")],
    )
    .await;
    vec![no_uri, nobody, database, tls, plain, password]
}

/// Mistakes on the server.
async fn on_the_server() -> Vec<Mistake> {
    let careless = Box::leak(Box::new(Server::start(&Options::default()).unwrap()));
    let rights = Mistake::agents(
        "missing rights",
        ["permission denied", "pollux-controller grant"],
        &["REVOKE pollux_agent FROM ROLE_"],
        &["GRANT pollux_agent TO ROLE_"],
    )
    .await;
    let read_only = Mistake::agents(
        "read-only server",
        ["read-only", "target_session_attrs=read-write"],
        &["ALTER DATABASE DB_ SET default_transaction_read_only = on"],
        &["ALTER DATABASE DB_ RESET default_transaction_read_only"],
    )
    .await;
    let newer = Mistake::agents(
        "schema newer than the binary",
        ["speaks protocol 2", "upgrade it"],
        &["CREATE OR REPLACE FUNCTION pollux.protocol() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'"],
        &["CREATE OR REPLACE FUNCTION pollux.protocol() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'"],
    )
    .await;
    let missing = Mistake::agents(
        "no schema",
        ["does not exist", "the controller makes it when it starts"],
        &["DROP SCHEMA pollux CASCADE"],
        &[],
    )
    .await;
    let forgetful = Mistake::on(
        careless,
        "fsync = off",
        ["fsync is off", "set fsync = on"],
        &["ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"],
        &["ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"],
    )
    .await;
    let full = Mistake::agents(
        "no session left",
        ["too many connections for role", "grant --connection-limit"],
        &["ALTER ROLE ROLE_ CONNECTION LIMIT 0"],
        &["ALTER ROLE ROLE_ CONNECTION LIMIT 9"],
    )
    .await;
    let old = Mistake::agents("PostgreSQL 13", ["PostgreSQL 13.14", "needs 14 or newer"], &[], &[]).await;
    let port = a_server_of_version("13.14 (Debian 13.14-1.pgdg110+2)").await;
    let uri = old.uri.replace(&format!(":{}/", old.port), &format!(":{port}/"));
    vec![
        Mistake { only_agents: true, ..rights },
        Mistake { transient: true, ..read_only },
        newer,
        Mistake { only_agents: true, ..missing },
        forgetful,
        Mistake { transient: true, ..full },
        Mistake { port, uri, ..old },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_the_secret_is_told_with_its_mend_and_retried_calmly() {
    join_all(in_the_secret().await.into_iter().map(Mistake::plays_out)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_on_the_server_is_told_with_its_mend_and_retried_calmly() {
    join_all(on_the_server().await.into_iter().map(Mistake::plays_out)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_does_not_lose_its_session_to_those_that_get_none() {
    let db = Db::new().await;
    let login = Database::parse(&db.owner).unwrap().with_login(&format!("role_{}", db.name), PASSWORD);
    let mut admin = Admin::connect(&Database::parse(&db.owner).unwrap()).await.unwrap();
    admin.grant_role(login.user(), PASSWORD, 1).await.unwrap();
    let agent = |pod: &str| ready(config(db.file(&login.to_uri()), pod));
    let a = agent("a");
    support::leads(&a).await;
    let observer = Observer::spawn(db.file(&db.owner));
    let mut state = observer.state();
    timeout(PATIENCE, state.wait_for(|state| *state == ObserverState::Up)).await.unwrap().unwrap();
    let full = observer.full_logins().await.unwrap();
    assert_eq!(
        full.iter().map(|l| (l.name.as_str(), l.limit)).filter(|l| l.0 == login.user()).collect::<Vec<_>>(),
        [(login.user(), 1)]
    );
    let b = agent("b");
    see(&b, "it is told", |view| view.database.error().is_some_and(|e| e.contains("CONNECTION LIMIT"))).await;
    let told = a.view().borrow().last_answer;
    see(&a, "it renews", |view| view.last_answer > told && view.role.epoch() == Some(1)).await;
    admin.grant_role(login.user(), PASSWORD, 20).await.unwrap();
    support::stands_by(&b).await;
    assert!(observer.full_logins().await.unwrap().iter().all(|l| l.name != login.user()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_told_the_same_before_it_changes_anything() {
    let db = Db::new().await;
    let client = db.client().await;
    let newer = "CREATE OR REPLACE FUNCTION pollux.protocol() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'";
    client.batch_execute(newer).await.unwrap();
    let owner = Database::parse(&db.owner).unwrap();
    let e = Admin::connect(&owner).await.expect_err("the schema is newer");
    assert!(matches!(e, Error::Unfit { .. }) && e.to_string().contains("speaks protocol 2"), "{e}");
    // An older one it migrates, and agents wait for that.
    client.batch_execute(&newer.replace('2', "0")).await.unwrap();
    Admin::connect(&owner).await.unwrap();
    let e = check_agent(&owner).await.expect_err("the schema is older");
    assert!(e.to_string().contains("speaks protocol 0") && e.to_string().contains("upgrade the operator"), "{e}");
    let port = a_server_of_version("13.14").await;
    let e = Admin::connect(&owner.with_host("127.0.0.1", Some(port))).await.expect_err("it is old");
    assert!(matches!(e, Error::Unfit { .. }) && !e.is_transient(), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_older_than_the_schema_works_if_it_speaks_its_protocol() {
    let db = Db::new().await;
    // A later version has added something that this one need not know.
    let later = "ALTER TABLE pollux.lease ADD COLUMN later text; CREATE FUNCTION pollux.later() RETURNS int LANGUAGE sql AS 'SELECT 1';
        INSERT INTO pollux.migration SELECT version + 1, 'later', applied_on, '7' FROM pollux.migration";
    db.client().await.batch_execute(later).await.unwrap();
    db.migrate().await;
    assert_eq!(support::leads(&db.agent("a")).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosted_server_without_a_disk_of_its_own_is_not_taken_for_careless() {
    let settings =
        [("fsync", "off"), ("neon.timeline_id", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let hosted = Server::start(&Options { settings: settings.into(), ..Options::default() }).unwrap();
    let uri = hosted.create_database(&fresh_name()).unwrap();
    let mut admin = Admin::connect(&Database::parse(&uri).unwrap()).await.unwrap();
    admin.migrate().await.unwrap();
    let client = connect(&uri).await;
    assert_eq!(client.query_one("SHOW fsync", &[]).await.unwrap().get::<_, String>(0), "off");
}
