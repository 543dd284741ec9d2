//! One connection: made with a deadline, listening, and every statement on it bounded by its caller's patience.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row};

use crate::database::{Database, TlsPolicy};
use crate::error::Error;
use crate::tls;

/// What the schema must speak: `pollux.protocol()`.
const PROTOCOL: i32 = 1;
/// The oldest PostgreSQL that has all that the schema and its agents use.
const OLDEST: u32 = 14;
/// Whether nothing can be written, and whether what was written may be lost. Neon writes to no disk of its own, so its `fsync`
/// says nothing.
const SERVER: &str = "current_setting('transaction_read_only') = 'on',
    current_setting('fsync') = 'off' AND current_setting('neon.timeline_id', true) IS NULL";

/// A connection; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    address: String,
    heard: Arc<Heard>,
    driver: tokio::task::JoinHandle<()>,
}

/// What is heard beside the answers.
#[derive(Debug, Default)]
struct Heard {
    /// The statement under way warned.
    warning: AtomicBool,
    /// The backend whose notifications are passed over.
    deaf_to: AtomicI32,
}

/// What a connection says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Payload of a notification.
    Notified(String),
    /// The connection has ended.
    Ended(String),
}

pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Reads a database's URI from its file.
pub(crate) fn read_file(path: &Path) -> Result<Database, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::File { path: path.display().to_string(), source })?;
    Ok(Database::parse(&text)?)
}

// === impl Session ===

impl Session {
    /// Connects: each address gets half of `patience`, all of them together `patience` for each host, and twice that if there is
    /// only one (its name may stand for several addresses, of which the first may be dead).
    pub(crate) async fn open(
        database: &Database,
        name: &str,
        patience: Duration,
    ) -> Result<(Self, mpsc::Receiver<News>), Error> {
        let config = database.config(name, patience / 2);
        let patience = patience * database.hosts().max(2);
        let (tx, rx) = mpsc::channel(64);
        let heard = Arc::<Heard>::default();
        let address = database.address();
        let connecting = async {
            let failed = |e: tokio_postgres::Error| unreached(&e, &address);
            if *database.tls() == TlsPolicy::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                new_enough(connection.parameter("server_version"), &address)?;
                let driver = tokio::spawn(drive(connection, tx, heard.clone()));
                Ok::<_, Error>((client, driver))
            } else {
                let connector = tls::connector(database.tls())?;
                let (client, connection) = config.connect(connector).await.map_err(failed)?;
                new_enough(connection.parameter("server_version"), &address)?;
                let driver = tokio::spawn(drive(connection, tx, heard.clone()));
                Ok::<_, Error>((client, driver))
            }
        };
        let (client, driver) = timeout(patience, connecting).await.map_err(|_| Error::Away {
            address: address.clone(),
            reason: format!("no connection within {patience:?}; {NOBODY}"),
        })??;
        Ok((Self { client, address, heard, driver }, rx))
    }

    /// Whether leases can be kept on this server; and whether the schema, if it is there, is one that this version knows or can
    /// migrate.
    pub(crate) async fn suits_owner(&self, patience: Duration) -> Result<(), Error> {
        let sql = format!("SELECT {SERVER}, to_regprocedure('pollux.protocol()') IS NOT NULL");
        let row = self.one(&sql, &[], patience).await?;
        self.suits(&row)?;
        if row.get(2) {
            let row = self.one("SELECT pollux.protocol()", &[], patience).await?;
            // An older one is what migrations are for.
            self.speaks(PROTOCOL.max(row.get(0)))?;
        }
        Ok(())
    }

    /// The same for somebody who needs the schema. Returns the backend's number.
    pub(crate) async fn suits_agent(&self, patience: Duration) -> Result<i32, Error> {
        let row = self.one(&format!("SELECT {SERVER}, pollux.protocol(), pg_backend_pid()"), &[], patience).await?;
        self.suits(&row)?;
        self.speaks(row.get(2))?;
        Ok(row.get(3))
    }

    fn suits(&self, row: &Row) -> Result<(), Error> {
        if row.get(0) {
            // A failover may be under way: that passes, or another host is the one to ask.
            return Err(away("it is read-only".into(), mend("25006"), &self.address));
        }
        if row.get(1) {
            return Err(self.unfit(
                "fsync is off, so a crash may bring back a lease that was given away; set fsync = on and restart PostgreSQL",
            ));
        }
        Ok(())
    }

    fn speaks(&self, protocol: i32) -> Result<(), Error> {
        match protocol.cmp(&PROTOCOL) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(self.unfit(&format!(
                "its schema speaks protocol {protocol} and this older version of Pollux only {PROTOCOL}; upgrade it to the version of the operator that migrated the schema"
            ))),
            std::cmp::Ordering::Less => Err(self.unfit(&format!(
                "its schema speaks protocol {protocol} and this version of Pollux {PROTOCOL}; upgrade the operator, which migrates the schema when it starts"
            ))),
        }
    }

    fn unfit(&self, reason: &str) -> Error {
        Error::Unfit { address: self.address.clone(), reason: reason.to_owned() }
    }

    /// Runs a statement that returns one row. An unnamed statement in one round trip: it works behind poolers too.
    ///
    /// After [`Error::Deadline`] and [`Error::Away`] it is not known whether it was carried out; the session is of no use any
    /// more.
    pub(crate) async fn one(&self, sql: &str, with: &[Parameter<'_>], patience: Duration) -> Result<Row, Error> {
        self.heard.warning.store(false, Ordering::Relaxed);
        let row = timeout(patience, self.client.query_typed_one(sql, with))
            .await
            .map_err(|_| Error::Deadline(patience))?
            .map_err(|e| self.sort(&e))?;
        // None of our statements warns. What does is a wait for a synchronous standby that somebody cancelled: the
        // commit is then reported as done though a failover can undo it.
        if self.heard.warning.load(Ordering::Relaxed) {
            return Err(Error::Away {
                address: self.address.clone(),
                reason: "the commit is not confirmed by its standby".into(),
            });
        }
        Ok(row)
    }

    /// Runs a statement that returns rows.
    pub(crate) async fn all(&self, sql: &str, with: &[Parameter<'_>], patience: Duration) -> Result<Vec<Row>, Error> {
        let rows =
            timeout(patience, self.client.query_typed(sql, with)).await.map_err(|_| Error::Deadline(patience))?;
        rows.map_err(|e| self.sort(&e))
    }

    /// Makes sure that an agent can work here, and listens to what others notify of. What a statement of this session's own
    /// notifies of, its answer has told.
    pub(crate) async fn listen(&self, channel: &str, patience: Duration) -> Result<(), Error> {
        let backend = self.suits_agent(patience).await?;
        self.heard.deaf_to.store(backend, Ordering::Relaxed);
        self.batch(&format!("LISTEN {channel}"), patience).await
    }

    /// Runs statements without parameters.
    pub(crate) async fn batch(&self, sql: &str, patience: Duration) -> Result<(), Error> {
        let done = timeout(patience, self.client.batch_execute(sql)).await.map_err(|_| Error::Deadline(patience))?;
        done.map_err(|e| self.sort(&e))
    }

    /// Where it leads to.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// For migrations, which bring their own statements.
    pub(crate) const fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    fn sort(&self, e: &tokio_postgres::Error) -> Error {
        sort(e, &self.address)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A statement that was given up must not keep the connection, and with it its place at the server, for ever.
        self.driver.abort();
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, news: mpsc::Sender<News>, heard: Arc<Heard>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: TlsStream + Unpin,
{
    let reason = loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(n))) => {
                if n.process_id() == heard.deaf_to.load(Ordering::Relaxed) {
                    continue;
                }
                // Whoever is 64 notifications late will look anyway.
                let _ = news.try_send(News::Notified(n.payload().to_owned()));
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                if notice.parsed_severity() == Some(tokio_postgres::error::Severity::Warning) {
                    heard.warning.store(true, Ordering::Relaxed);
                }
            }
            Some(Ok(_)) => {}
            Some(Err(e)) => break describe(&e),
            None => break "the connection was closed".to_owned(),
        }
    };
    let _ = news.send(News::Ended(reason)).await;
}

/// tokio-postgres's own text names only the outermost cause.
fn describe(e: &tokio_postgres::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// What helps where nobody answers.
const NOBODY: &str = "check that PostgreSQL runs there, and the host and port in the URI";

/// A connection that could not be made.
fn unreached(e: &tokio_postgres::Error, address: &str) -> Error {
    if e.as_db_error().is_some() {
        return sort(e, address);
    }
    let text = describe(e);
    // Wrong certificates do not become right by waiting. Neither rustls's errors nor tokio-postgres's can be told apart from here
    // but by their text.
    if text.contains("invalid peer certificate") {
        return Error::Tls(format!(
            "{text}; its certificate must be for the host in the URI, and from an authority that is public or in the URI's sslrootcert=FILE (sslmode=require encrypts without that proof)"
        ));
    }
    if text.contains("server does not support TLS") {
        return Error::Tls(format!("{text}; switch it on there (ssl = on), or leave sslmode out of the URI"));
    }
    away(text, Some(NOBODY), address)
}

/// What does not say its version is believed to be new enough: a pooler, perhaps.
fn new_enough(version: Option<&str>, address: &str) -> Result<(), Error> {
    let Some(version) = version else { return Ok(()) };
    let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major < OLDEST => Err(Error::Unfit {
            address: address.to_owned(),
            reason: format!(
                "it is PostgreSQL {version}, and Pollux needs {OLDEST} or newer; upgrade it, or put the URI of a newer one into the Secret"
            ),
        }),
        _ => Ok(()),
    }
}

fn away(reason: String, mend: Option<&str>, address: &str) -> Error {
    let reason = mend.map_or_else(|| reason.clone(), |mend| format!("{reason}; {mend}"));
    Error::Away { address: address.to_owned(), reason }
}

/// Sorts errors by what helps.
fn sort(e: &tokio_postgres::Error, address: &str) -> Error {
    let Some(db) = e.as_db_error() else { return away(describe(e), None, address) };
    let code = db.code().code();
    let message = db.message().to_owned();
    match code {
        // Shutting down or starting up; too many connections; read only, which means: this is no longer the primary.
        "57P01" | "57P02" | "57P03" | "53300" | "25006" => away(message, mend(code), address),
        _ if code.starts_with("08") => away(message, mend(code), address),
        _ => Error::Refused { code: code.to_owned(), message, mend: mend(code) },
    }
}

fn mend(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" | "28000" => "the role or its password in the Secret is wrong, or pg_hba.conf does not let it in",
        "3D000" => "create the database, or correct its name at the end of the URI",
        "25006" => {
            "the URI should name the primary: with all hosts of the cluster in it and target_session_attrs=read-write it is found after a failover too"
        }
        "53300" => {
            "each pod has one session, two with failover Fast, and an update brings one more pod: raise the role's CONNECTION LIMIT (pollux-controller grant --connection-limit, or ALTER ROLE), or max_connections if it is the server that is full"
        }
        "3F000" | "42883" | "42P01" => {
            "the schema pollux is missing or old: the controller makes it when it starts, with the owner's URI"
        }
        "42501" => {
            "the role lacks a right: agents get theirs by `pollux-controller grant`, the owner needs CREATE on the database and CREATEROLE"
        }
        "55P03" => "somebody holds what this waits for: look into pg_locks",
        "PX003" => "pollux-controller grant --tenant makes a namespace and its login one tenant's",
        "PX004" => "set spec.suspend of one of the two bots, and try again after two minutes",
        "PX001" => {
            "after a token was rotated, pods with the old one must see the new one first; two bots must not share one id"
        }
        _ => return None,
    })
}
