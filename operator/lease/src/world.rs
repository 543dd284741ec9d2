//! What a process needs of the world around it: PostgreSQL, a clock, and the lock of its pod's file.
//!
//! The driver asks for it here and nowhere else. In production it is what it is; in the simulation all of it is made up, so
//! that whatever can happen to a process does happen, and happens again from the same seed.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pollux_clock::BootInstant;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::core::{Answer, Ask, Statement, Told};
use crate::error::Error;
use crate::filelock::FileLock;
use crate::session::{News, Session, read_file};
use crate::statements::Caller;

/// How long trying whether notifications arrive may take. It is in nobody's way.
const ECHO: Duration = Duration::from_secs(30);

/// Something that is under way. Who drops it gives it up; a statement may be carried out all the same.
pub(crate) type Pending<T> = BoxFuture<'static, Result<T, Error>>;

/// A session, and what it says of itself.
pub(crate) type Open<S> = (Arc<S>, mpsc::Receiver<News>);

/// The world as one process sees it.
pub(crate) trait World: Send + Sync + 'static {
    /// A connection; it ends when the last one who has it drops it.
    type Session: Send + Sync;

    /// Reads the clock.
    fn now(&self) -> BootInstant;

    /// Waits until this instant.
    fn until(&self, at: BootInstant) -> impl Future<Output = ()> + Send;

    /// Takes the lock of the pod's file if it is free; once taken it is held as long as this lives.
    fn lock_file(&mut self) -> io::Result<bool>;

    /// Opens the session for statements, which hears notifications about the caller's bot.
    fn open(&self, caller: &Caller, patience: Duration) -> Pending<Open<Self::Session>>;

    /// Carries a statement out. It may be on its way as soon as this returns, and at the latest when it is polled first. After
    /// [`Error::Deadline`] and [`Error::Away`] it is not known whether it was carried out; the session is of no use any more.
    fn carry_out(
        &self,
        on: &Arc<Self::Session>,
        caller: &Caller,
        statement: &Statement,
        patience: Duration,
    ) -> Pending<Answer>;

    /// Finds out whether a transaction pooler is on the way. If none shows, the caller is notified, under its own name, and
    /// this is ready when the notification must have arrived.
    fn probe(&self, main: Arc<Self::Session>, caller: &Caller) -> Pending<bool>;

    /// Opens the session for locks, which the server ends after some silence.
    fn open_lane(&self, silence: Duration) -> Pending<Open<Self::Session>>;

    /// Asks on the session for locks.
    fn ask(&self, on: &Arc<Self::Session>, ask: Ask, patience: Duration) -> Pending<Told>;
}

/// The world of production.
#[derive(Debug)]
pub(crate) struct Postgres {
    database_file: PathBuf,
    alive_file: Option<PathBuf>,
    lock: Option<FileLock>,
}

// === impl Postgres ===

impl Postgres {
    pub(crate) const fn new(database_file: PathBuf, alive_file: Option<PathBuf>) -> Self {
        Self { database_file, alive_file, lock: None }
    }
}

impl World for Postgres {
    type Session = Session;

    fn now(&self) -> BootInstant {
        BootInstant::now()
    }

    async fn until(&self, at: BootInstant) {
        sleep(at - BootInstant::now()).await;
    }

    fn lock_file(&mut self) -> io::Result<bool> {
        if let (None, Some(path)) = (&self.lock, &self.alive_file) {
            self.lock = FileLock::try_take(path)?;
        }
        Ok(self.lock.is_some())
    }

    fn open(&self, caller: &Caller, patience: Duration) -> Pending<Open<Session>> {
        let (file, bot_id) = (self.database_file.clone(), caller.bot.bot_id);
        let patience = patience.max(Duration::from_secs(1));
        async move {
            let (session, news) = Session::open(&read_file(&file)?, "pollux-agent", patience).await?;
            session.listen(&format!("pollux_{bot_id}"), patience).await?;
            Ok((Arc::new(session), news))
        }
        .boxed()
    }

    fn carry_out(
        &self,
        on: &Arc<Session>,
        caller: &Caller,
        statement: &Statement,
        patience: Duration,
    ) -> Pending<Answer> {
        let (session, caller, statement) = (on.clone(), caller.clone(), statement.clone());
        async move { caller.run(&session, &statement, patience).await }.boxed()
    }

    fn probe(&self, main: Arc<Session>, caller: &Caller) -> Pending<bool> {
        let file = self.database_file.clone();
        let echo = format!("SELECT pg_notify('pollux_{}', '{}')", caller.bot.bot_id, caller.me.id.as_str());
        async move {
            let (other, _news) = Session::open(&read_file(&file)?, "pollux-probe", ECHO).await?;
            if share_backends(&main, &other).await? {
                return Ok(true);
            }
            other.one(&echo, &[], ECHO).await?;
            // A backend delivers what it was notified of before it answers what came later.
            backend(&main).await.map(|_| false)
        }
        .boxed()
    }

    fn open_lane(&self, silence: Duration) -> Pending<Open<Session>> {
        let file = self.database_file.clone();
        let patience = silence.max(Duration::from_secs(1));
        async move {
            let (session, news) = Session::open(&read_file(&file)?, "pollux-lock", patience).await?;
            session.batch(&format!("SET idle_session_timeout = {}", silence.as_millis()), patience).await?;
            Ok((Arc::new(session), news))
        }
        .boxed()
    }

    fn ask(&self, on: &Arc<Session>, ask: Ask, patience: Duration) -> Pending<Told> {
        let session = on.clone();
        async move { said(&session, ask, patience).await }.boxed()
    }
}

/// Whether two sessions share the server's backends, which they only do through a pooler.
async fn share_backends(main: &Session, other: &Session) -> Result<bool, Error> {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let before = backend(main).await?;
        let theirs = backend(other).await?;
        if before == theirs || before != backend(main).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn backend(session: &Session) -> Result<i32, Error> {
    // Not `one`: a warning that belongs to the statement under way must not be taken from it.
    let rows = session.all("SELECT pg_backend_pid()", &[], ECHO).await?;
    rows.first().map_or(Ok(0), |row| column(row, 0))
}

async fn said(session: &Session, ask: Ask, patience: Duration) -> Result<Told, Error> {
    let row = match ask {
        Ask::Try { key } => {
            session.one("SELECT pg_try_advisory_lock($1), pg_backend_pid()", &[(&key, Type::INT8)], patience).await?
        }
        Ask::Beat => session.one("SELECT true, pg_backend_pid()", &[], patience).await?,
        Ask::Release { key } => {
            session.one("SELECT pg_advisory_unlock($1), pg_backend_pid()", &[(&key, Type::INT8)], patience).await?
        }
    };
    Ok(Told { granted: column(&row, 0)?, backend: column(&row, 1)? })
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, Error> {
    row.try_get(index).map_err(|e| Error::Answer(e.to_string()))
}
