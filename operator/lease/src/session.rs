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
            let failed = |e: tokio_postgres::Error| sort(&e, &address);
            if *database.tls() == TlsPolicy::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                let driver = tokio::spawn(drive(connection, tx, heard.clone()));
                Ok::<_, Error>((client, driver))
            } else {
                let connector = tls::connector(database.tls())?;
                let (client, connection) = config.connect(connector).await.map_err(failed)?;
                let driver = tokio::spawn(drive(connection, tx, heard.clone()));
                Ok::<_, Error>((client, driver))
            }
        };
        let (client, driver) = timeout(patience, connecting).await.map_err(|_| Error::Away {
            address: address.clone(),
            reason: format!("no connection within {patience:?}"),
        })??;
        Ok((Self { client, address, heard, driver }, rx))
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

    /// Listens to what others notify of. What a statement of this session's own notifies of, its answer has told.
    pub(crate) async fn listen(&self, channel: &str, patience: Duration) -> Result<(), Error> {
        let row = self.one("SELECT pg_backend_pid()", &[], patience).await?;
        self.heard.deaf_to.store(row.get(0), Ordering::Relaxed);
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

/// Sorts errors by what helps.
fn sort(e: &tokio_postgres::Error, address: &str) -> Error {
    let away = |reason| Error::Away { address: address.to_owned(), reason };
    let Some(db) = e.as_db_error() else {
        // Wrong certificates do not become right by waiting.
        let text = describe(e);
        return if text.contains("invalid peer certificate") { Error::Tls(text) } else { away(text) };
    };
    let code = db.code().code();
    let message = db.message().to_owned();
    match code {
        // Shutting down or starting up; too many connections; read only, which means: this is no longer the primary.
        "57P01" | "57P02" | "57P03" | "53300" | "25006" => away(message),
        _ if code.starts_with("08") => away(message),
        _ => Error::Refused { code: code.to_owned(), message, mend: mend(code) },
    }
}

fn mend(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" | "28000" => "the role or its password in the Secret is wrong, or pg_hba.conf does not let it in",
        "3D000" => "create the database, or correct its name at the end of the URI",
        "3F000" | "42883" => {
            "the schema pollux is missing or old: the controller makes it when it starts, with the owner's URI"
        }
        "42501" => {
            "the role lacks a right: agents get theirs by `pollux-controller grant`, the owner needs CREATE on the database and CREATEROLE"
        }
        "PX001" => {
            "after a token was rotated, pods with the old one must see the new one first; two bots must not share one id"
        }
        _ => return None,
    })
}
