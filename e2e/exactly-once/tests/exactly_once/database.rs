//! A database with the kit and a table of effects, and sessions that use them as a bot would.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use pollux_postgres::{Options, Server};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

/// Longer than anything may take on a machine that builds at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const BOT: i64 = 4242;
pub(crate) const ISOLATIONS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// Both functions, by their parameters.
pub(crate) const FENCE: &str = "fence_bump(bot_id bigint, epoch bigint)";
pub(crate) const CLAIM: &str = "claim_update(bot_id bigint, update_id bigint)";

/// A database of its own for one test.
pub(crate) struct Db {
    pub(crate) name: String,
    pub(crate) uri: String,
}

/// One connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pid: i32,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written,
    /// A later epoch has written.
    Stale,
    /// The update had its effect before.
    Done,
    /// To be begun again: SQLSTATE 40001.
    Again,
}

/// The server of this test binary.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Mutex<Option<&'static Server>>> = OnceLock::new();
    let mut server = SERVER.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    server.get_or_insert_with(|| Box::leak(Box::new(Server::start(&Options::default()).unwrap())))
}

/// A database without anything in it.
pub(crate) fn empty_database(server: &Server) -> Db {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let uri = server.create_database(&name).unwrap();
    Db { name, uri }
}

// === impl Db ===

impl Db {
    pub(crate) async fn new() -> Self {
        Self::on(server()).await
    }

    pub(crate) async fn on(server: &Server) -> Self {
        let db = empty_database(server);
        let session = db.session().await;
        session.run(&pollux_exactly_once::kit()).await;
        session
            .run("CREATE TABLE effect (n bigint GENERATED ALWAYS AS IDENTITY, epoch bigint, update_id bigint)")
            .await;
        db
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.uri).await.unwrap()
    }

    /// Takes the protection of these functions away: they agree to everything. So a bot is without the kit.
    pub(crate) async fn disarm(&self, functions: &[&str]) {
        let session = self.session().await;
        for function in functions {
            let sql = format!("CREATE OR REPLACE FUNCTION pollux_bot.{function} RETURNS boolean LANGUAGE sql AS");
            session.run(&format!("{sql} 'SELECT true'")).await;
        }
    }
}

// === impl Session ===

impl Session {
    pub(crate) async fn connect(uri: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
        tokio::spawn(connection);
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(Self { client, pid })
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    pub(crate) async fn try_run(&self, sql: &str) -> Result<(), Error> {
        timeout(PATIENCE, self.client.batch_execute(sql)).await.unwrap_or_else(|_| panic!("no end of {sql}"))
    }

    /// One value.
    pub(crate) async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        let asked = timeout(PATIENCE, self.client.query_one(sql, &[])).await;
        asked.unwrap_or_else(|_| panic!("no answer to {sql}")).unwrap_or_else(|error| panic!("{error:?}: {sql}")).get(0)
    }

    pub(crate) async fn try_fence(&self, epoch: i64) -> Result<bool, Error> {
        let sql = format!("SELECT pollux_bot.fence_bump({BOT}, {epoch})");
        Ok(timeout(PATIENCE, self.client.query_one(&sql, &[])).await.expect("fence_bump answers")?.get(0))
    }

    pub(crate) async fn fence(&self, epoch: i64) -> bool {
        self.try_fence(epoch).await.unwrap()
    }

    pub(crate) async fn try_claim(&self, update: i64) -> Result<bool, Error> {
        let sql = format!("SELECT pollux_bot.claim_update({BOT}, {update})");
        Ok(timeout(PATIENCE, self.client.query_one(&sql, &[])).await.expect("claim_update answers")?.get(0))
    }

    pub(crate) async fn claim(&self, update: i64) -> bool {
        self.try_claim(update).await.unwrap()
    }

    pub(crate) async fn effect(&self, epoch: i64, update: i64) {
        self.run(&format!("INSERT INTO effect (epoch, update_id) VALUES ({epoch}, {update})")).await;
    }

    /// How many effects this update has had.
    pub(crate) async fn effects(&self, update: i64) -> i64 {
        self.one(&format!("SELECT count(*) FROM effect WHERE update_id = {update}")).await
    }

    /// A transaction as the page has it.
    pub(crate) async fn process(&self, epoch: i64, update: i64) -> Result<Outcome, Error> {
        self.run("BEGIN").await;
        let outcome = self.within(epoch, update).await;
        let ended = self.try_run(if matches!(outcome, Ok(Outcome::Written)) { "COMMIT" } else { "ROLLBACK" }).await;
        match outcome.and_then(|outcome| ended.map(|()| outcome)) {
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => Ok(Outcome::Again),
            other => other,
        }
    }

    async fn within(&self, epoch: i64, update: i64) -> Result<Outcome, Error> {
        if !self.try_fence(epoch).await? {
            return Ok(Outcome::Stale);
        }
        if !self.try_claim(update).await? {
            return Ok(Outcome::Done);
        }
        let sql = format!("INSERT INTO effect (epoch, update_id) VALUES ({epoch}, {update})");
        self.try_run(&sql).await?;
        Ok(Outcome::Written)
    }

    /// Waits until the other one waits for a lock.
    pub(crate) async fn until_waits(&self, pid: i32) {
        let sql = format!("SELECT cardinality(pg_blocking_pids({pid})) > 0");
        let asking = async {
            while !self.one::<bool>(&sql).await {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, asking).await.is_ok(), "process {pid} never waited");
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }
}
