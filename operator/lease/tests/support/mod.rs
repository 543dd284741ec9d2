//! What the tests on a real PostgreSQL share: one server per test binary, one database per test, and the oracle.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use pollux_lease::{
    BootInstant, BotKey, Config, Database, Lease, Replica, Resource, Role, TokenDigest, View, admin::Admin,
};
use pollux_postgres::{Options, Server};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

pub mod oracle;
pub mod process;

/// Longer than anything may take on a machine that builds at the same time.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The TTL of the tests: the least that users may choose.
pub const TTL: Duration = Duration::from_secs(3);
pub const TOKEN: &str = "4242:secret";

/// A database with the schema, for one test.
pub struct Db {
    pub name: String,
    pub owner: String,
    dir: TempDir,
    files: AtomicUsize,
}

/// The server of this test binary.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Mutex<Option<&'static Server>>> = OnceLock::new();
    let mut server = SERVER.get_or_init(Mutex::default).lock().unwrap();
    server.get_or_insert_with(|| Box::leak(Box::new(Server::start(&Options::default()).unwrap())))
}

pub fn fresh_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Db {
    pub async fn new() -> Self {
        Self::on(server()).await
    }

    pub async fn on(server: &Server) -> Self {
        let name = fresh_name();
        let owner = server.create_database(&name).unwrap();
        let db = Self { name, owner, dir: TempDir::new().unwrap(), files: AtomicUsize::new(0) };
        db.migrate().await;
        db
    }

    pub async fn migrate(&self) {
        let mut admin = Admin::connect(&Database::parse(&self.owner).unwrap()).await.unwrap();
        admin.migrate().await.unwrap();
        // Tests count from the first epoch.
        self.client().await.batch_execute("ALTER TABLE pollux.lease ALTER epoch SET DEFAULT 0").await.unwrap();
    }

    /// A file with this URI, as a mounted Secret would be.
    pub fn file(&self, uri: &str) -> PathBuf {
        let path = self.dir.path().join(format!("uri{}", self.files.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&path, uri).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn client(&self) -> Client {
        connect(&self.owner).await
    }

    pub fn config(&self, pod: &str) -> Config {
        config(self.file(&self.owner), pod)
    }

    /// An agent that is ready.
    pub fn agent(&self, pod: &str) -> Lease {
        ready(self.config(pod))
    }
}

pub async fn connect(uri: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn resource(name: &str) -> Resource {
    Resource { cluster: "c".into(), namespace: "shop".into(), name: name.into() }
}

pub fn config(database_file: PathBuf, pod: &str) -> Config {
    let replica = Replica {
        resource: resource("echo"),
        pod: pod.into(),
        pod_uid: format!("uid-of-{pod}"),
        node: format!("node-of-{pod}"),
        revision: "r1".into(),
    };
    Config {
        database_file,
        bot: BotKey { bot_id: 4242, server: "https://api.telegram.org".into() },
        token: TokenDigest::of(TOKEN),
        replica,
        alive_file: None,
        default_ttl: TTL,
    }
}

pub fn ready(config: Config) -> Lease {
    let lease = Lease::spawn(config);
    lease.set_ready(true);
    lease
}

/// Waits until the view is as wanted.
pub async fn see(lease: &Lease, what: &str, wanted: impl Fn(&View) -> bool) -> View {
    let mut view: watch::Receiver<View> = lease.view();
    let found = timeout(PATIENCE, view.wait_for(|view| wanted(view))).await;
    match found {
        Ok(Ok(view)) => view.clone(),
        Ok(Err(_)) => panic!("{what}: the lease's task is gone"),
        Err(_) => panic!("{what}: not within {PATIENCE:?}; now {:?}", lease.view().borrow().clone()),
    }
}

pub async fn leads(lease: &Lease) -> i64 {
    let view = see(lease, "it leads", |view| view.role.may_poll(BootInstant::now())).await;
    view.role.epoch().unwrap()
}

pub async fn stands_by(lease: &Lease) -> View {
    see(lease, "it stands by", |view| view.role == Role::Standby && view.holder.is_some()).await
}

/// Waits until a query says true.
pub async fn until(client: &Client, what: &str, sql: &str) {
    let asked = AtomicI64::new(0);
    let asking = async {
        loop {
            asked.fetch_add(1, Ordering::Relaxed);
            let row = client.query_typed_opt(sql, &[]).await.unwrap();
            if row.and_then(|row| row.get::<_, Option<bool>>(0)) == Some(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, asking).await.is_ok(), "{what}: not within {PATIENCE:?}");
}
