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

/// How long to wait after a session was lost; and twice as long each time it could not be had, up to the last one.
const AGAIN: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(3);

/// The way to the locks.
pub(crate) enum Lane<S> {
    Off,
    /// None any more; tried again at this time, after this pause.
    Down(BootInstant, Duration),
    Opening {
        opening: Pending<Open<S>>,
        silence: Duration,
        /// The last one.
        pause: Duration,
    },
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
            (Self::Off, Some(silence)) => {
                *self = Self::Opening { opening: world.open_lane(silence), silence, pause: Duration::ZERO };
            }
            (Self::Down(at, pause), Some(silence)) if *at <= now => {
                *self = Self::Opening { opening: world.open_lane(silence), silence, pause: *pause };
            }
            (Self::Open { silence: now, .. }, wanted) if wanted != Some(*now) => {
                *self = Self::Off;
                return Some(Event::LaneDown);
            }
            (Self::Down(..) | Self::Opening { .. }, None) => *self = Self::Off,
            _ => {}
        }
        None
    }

    /// When [`Lane::want`] has something to do.
    pub(crate) const fn due(&self) -> Option<BootInstant> {
        match self {
            Self::Down(at, _) => Some(*at),
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
                Self::Off | Self::Down(..) => return pending().await,
                Self::Opening { opening, silence, pause } => match opening.await {
                    Ok((session, news)) => {
                        *self = Self::Open { session, news, asked: None, silence: *silence };
                        return Event::LaneUp { key: random.random() };
                    }
                    Err(error) => {
                        let pause = (*pause * 2).clamp(AGAIN, LAST);
                        self.lost(&error.to_string(), pause, world, random);
                        return Event::Tick; // so that whoever waits knows when it is due again
                    }
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
                            self.lost(&reason, AGAIN, world, random);
                            return Event::LaneDown;
                        }
                    }
                }
            }
        }
    }

    fn lost<W: World>(&mut self, reason: &str, pause: Duration, world: &W, random: &mut StdRng) {
        debug!(reason, "no session for locks");
        *self = Self::Down(world.now() + pause.mul_f64(random.random_range(0.5..1.5)), pause);
    }
}

async fn answer(asked: &mut Option<Pending<Told>>) -> Result<Told, Error> {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}
