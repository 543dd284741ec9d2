//! The session for locks: opened while the protocol wants one, and asked one thing at a time.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tracing::debug;

use crate::core::{Ask, Event, Told};
use crate::error::Error;
use crate::session::News;
use crate::world::{Open, Pending, World};

/// How long to wait after a session was lost, or could not be had.
const AGAIN: Duration = Duration::from_millis(200);

/// The way to the locks.
pub(crate) enum Lane<S> {
    Off,
    /// None yet, or none any more; tried again at this time.
    Down(BootInstant),
    Opening(Duration, Pending<Open<S>>),
    Open {
        session: Arc<S>,
        news: mpsc::Receiver<News>,
        asked: Option<Pending<Told>>,
        /// After which the server ends it.
        silence: Duration,
    },
}

// === impl Lane ===

impl<S> Lane<S> {
    /// Opens or closes it. Returns what the protocol is to be told.
    pub(crate) fn want<W>(&mut self, silence: Option<Duration>, world: &W, now: BootInstant) -> Option<Event>
    where
        W: World<Session = S>,
    {
        match (&*self, silence) {
            (Self::Off, Some(silence)) => *self = Self::Opening(silence, world.open_lane(silence)),
            (Self::Down(at), Some(silence)) if *at <= now => {
                *self = Self::Opening(silence, world.open_lane(silence));
            }
            (Self::Open { silence: now, .. }, wanted) if wanted != Some(*now) => {
                *self = Self::Off;
                return Some(Event::LaneDown);
            }
            (Self::Down(_) | Self::Opening(..), None) => *self = Self::Off,
            _ => {}
        }
        None
    }

    /// When [`Lane::want`] has something to do.
    pub(crate) const fn due(&self) -> Option<BootInstant> {
        match self {
            Self::Down(at) => Some(*at),
            _ => None,
        }
    }

    pub(crate) fn ask<W: World<Session = S>>(&mut self, ask: Ask, world: &W) {
        if let Self::Open { session, asked, silence, .. } = self {
            *asked = Some(world.ask(session, ask, *silence));
        }
    }

    /// Waits until something happened that the protocol is to be told.
    pub(crate) async fn next<W: World<Session = S>>(&mut self, world: &W, random: &mut StdRng) -> Event {
        loop {
            match self {
                Self::Off | Self::Down(_) => return pending().await,
                Self::Opening(silence, opening) => match opening.await {
                    Ok((session, news)) => {
                        *self = Self::Open { session, news, asked: None, silence: *silence };
                        return Event::LaneUp { key: random.random() };
                    }
                    Err(error) => self.lost(&error.to_string(), world, random),
                },
                Self::Open { news, asked, .. } => {
                    let told = tokio::select! {
                        biased;
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
                            self.lost(&reason, world, random);
                            return Event::LaneDown;
                        }
                    }
                }
            }
        }
    }

    fn lost<W: World>(&mut self, reason: &str, world: &W, random: &mut StdRng) {
        debug!(reason, "no session for locks");
        *self = Self::Down(world.now() + AGAIN.mul_f64(random.random_range(0.5..1.5)));
    }
}

async fn answer(asked: &mut Option<Pending<Told>>) -> Result<Told, Error> {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}
