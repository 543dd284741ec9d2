//! The session for locks: opened while the protocol wants one, and asked one thing at a time.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tracing::debug;

use crate::core::{Ask, Event, Told};
use crate::error::Error;
use crate::session::{News, Session, read_file};

/// How long to wait after a session was lost, or could not be had.
const AGAIN: Duration = Duration::from_millis(200);

/// The way to the locks.
#[derive(Debug, Default)]
pub(crate) enum Lane {
    #[default]
    Off,
    /// None yet, or none any more; tried again at this time.
    Down(Instant),
    Opening(Duration, JoinHandle<Result<Open, Error>>),
    Open {
        session: Arc<Session>,
        news: mpsc::Receiver<News>,
        asked: Option<JoinHandle<Result<Told, Error>>>,
        /// After which the server ends it.
        silence: Duration,
    },
}

type Open = (Session, mpsc::Receiver<News>);

// === impl Lane ===

impl Lane {
    /// Opens or closes it. Returns what the protocol is to be told.
    pub(crate) fn want(&mut self, silence: Option<Duration>, file: &Path) -> Option<Event> {
        match (&*self, silence) {
            (Self::Off, Some(silence)) => self.open(silence, file),
            (Self::Down(at), Some(silence)) if *at <= Instant::now() => self.open(silence, file),
            (Self::Open { silence: now, .. }, wanted) if wanted != Some(*now) => {
                *self = Self::Off;
                return Some(Event::LaneDown);
            }
            (Self::Down(_) | Self::Opening(..), None) => *self = Self::Off,
            _ => {}
        }
        None
    }

    fn open(&mut self, silence: Duration, file: &Path) {
        *self = Self::Opening(silence, tokio::spawn(open(file.to_owned(), silence)));
    }

    /// When [`Lane::want`] has something to do.
    pub(crate) const fn due(&self) -> Option<Instant> {
        match self {
            Self::Down(at) => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn ask(&mut self, ask: Ask) {
        let Self::Open { session, asked, silence, .. } = self else { return };
        let (session, silence) = (session.clone(), *silence);
        *asked = Some(tokio::spawn(async move { said(&session, ask, silence).await }));
    }

    /// Waits until something happened that the protocol is to be told.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match self {
                Self::Off | Self::Down(_) => return pending().await,
                Self::Opening(silence, opening) => match joined(opening).await {
                    Ok((session, news)) => {
                        let (session, silence) = (Arc::new(session), *silence);
                        *self = Self::Open { session, news, asked: None, silence };
                        return Event::LaneUp { key: rand::random() };
                    }
                    Err(error) => self.lost(&error.to_string()),
                },
                Self::Open { news, asked, .. } => {
                    let told = tokio::select! {
                        told = answer(asked) => told.map_err(|e| e.to_string()),
                        news = news.recv() => match news {
                            Some(News::Notified(_)) => continue,
                            Some(News::Ended(reason)) => Err(reason),
                            None => Err("the connection was closed".to_owned()),
                        },
                    };
                    match told {
                        Ok(told) => {
                            *asked = None;
                            return Event::Told(told);
                        }
                        Err(reason) => {
                            self.lost(&reason);
                            return Event::LaneDown;
                        }
                    }
                }
            }
        }
    }

    fn lost(&mut self, reason: &str) {
        debug!(reason, "no session for locks");
        *self = Self::Down(Instant::now() + AGAIN.mul_f64(rand::random_range(0.5..1.5)));
    }
}

async fn answer(asked: &mut Option<JoinHandle<Result<Told, Error>>>) -> Result<Told, Error> {
    match asked {
        Some(asked) => joined(asked).await,
        None => pending().await,
    }
}

async fn open(file: PathBuf, silence: Duration) -> Result<Open, Error> {
    let patience = silence.max(Duration::from_secs(1));
    let (session, news) = Session::open(&read_file(&file)?, "pollux-lock", patience).await?;
    session.batch(&format!("SET idle_session_timeout = {}", silence.as_millis()), patience).await?;
    Ok((session, news))
}

async fn said(session: &Session, ask: Ask, silence: Duration) -> Result<Told, Error> {
    let row = match ask {
        Ask::Try { key } => {
            session.one("SELECT pg_try_advisory_lock($1), pg_backend_pid()", &[(&key, Type::INT8)], silence).await?
        }
        Ask::Beat => session.one("SELECT true, pg_backend_pid()", &[], silence).await?,
        Ask::Release { key } => {
            session.one("SELECT pg_advisory_unlock($1), pg_backend_pid()", &[(&key, Type::INT8)], silence).await?
        }
    };
    Ok(Told { granted: row.get(0), backend: row.get(1) })
}

async fn joined<T>(task: &mut JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|e| Err(Error::Away { address: String::new(), reason: e.to_string() }))
}
