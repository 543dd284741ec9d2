//! The world as a simulated process sees it: its own clock, and its own lines.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use pollux_clock::BootInstant;
use tokio::sync::oneshot;

use super::net::{Due, Key, Kind, Net, away};
use crate::core::{Answer, Ask, Statement, Told};
use crate::error::Error;
use crate::statements::Caller;
use crate::world::{Open, Pending, World};

const ECHO: Duration = Duration::from_secs(2);

pub(super) type Shared = Arc<Mutex<Net>>;

/// A clock that was set some time ago and is fast or slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) offset: Duration,
    /// Of a thousand.
    pub(super) speed: u32,
}

pub(super) struct Place {
    pub(super) net: Shared,
    pub(super) n: usize,
    pub(super) clock: Clock,
}

/// A session of a simulated process.
pub(super) struct End {
    net: Shared,
    id: usize,
}

/// Wakes its process at a moment of true time.
struct Timer {
    net: Shared,
    at: Duration,
    key: Option<Key>,
}

pub(super) fn lock(net: &Shared) -> MutexGuard<'_, Net> {
    net.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Clock ===

impl Clock {
    pub(super) fn read(&self, now: Duration) -> BootInstant {
        BootInstant::from_boot(self.offset + now * self.speed / 1000)
    }

    /// The first moment at which it shows `at`, or a little later.
    fn shows(&self, at: BootInstant) -> Duration {
        at.since_boot().saturating_sub(self.offset) * 1000 / self.speed + Duration::from_micros(1)
    }
}

// === impl Timer ===

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let net = self.net.clone();
        let mut net = lock(&net);
        if net.now >= self.at {
            return Poll::Ready(());
        }
        if self.key.is_none() {
            self.key = Some(net.at(self.at, Due::Wake(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.net).forget(key);
        }
    }
}

// === impl End ===

impl Drop for End {
    fn drop(&mut self) {
        lock(&self.net).close(self.id);
    }
}

// === impl Place ===

impl Place {
    fn timer(&self, at: BootInstant) -> Timer {
        Timer { net: self.net.clone(), at: self.clock.shows(at), key: None }
    }

    fn within<T: Send + 'static>(&self, patience: Duration, answer: oneshot::Receiver<Result<T, Error>>) -> Pending<T> {
        let late = self.timer(self.now() + patience);
        async move {
            tokio::select! {
                biased;
                answer = answer => answer.unwrap_or_else(|_| Err(away("the connection was closed"))),
                () = late => Err(Error::Deadline(patience)),
            }
        }
        .boxed()
    }

    fn connect(&self, kind: Kind, patience: Duration) -> Pending<Open<End>> {
        let net = self.net.clone();
        let opened = lock(&net).open(self.n, kind);
        let opened = self.within(patience.max(Duration::from_secs(1)), opened);
        async move {
            let (id, news) = opened.await?;
            Ok((Arc::new(End { net, id }), news))
        }
        .boxed()
    }
}

impl World for Place {
    type Session = End;

    fn now(&self) -> BootInstant {
        self.clock.read(lock(&self.net).now)
    }

    fn until(&self, at: BootInstant) -> impl Future<Output = ()> + Send {
        self.timer(at)
    }

    fn lock_file(&mut self) -> io::Result<bool> {
        Ok(lock(&self.net).lock_file(self.n))
    }

    fn open(&self, _: &Caller, patience: Duration) -> Pending<Open<End>> {
        self.connect(Kind::Work, patience)
    }

    fn carry_out(&self, on: &Arc<End>, _: &Caller, statement: &Statement, patience: Duration) -> Pending<Answer> {
        let answer = lock(&self.net).send(on.id, statement.clone());
        self.within(patience, answer)
    }

    fn probe(&self, main: Arc<End>, _: &Caller) -> Pending<bool> {
        let found = lock(&self.net).probe(self.n);
        let found = self.within(ECHO, found);
        let heard = self.timer(self.now() + ECHO);
        async move {
            let pooled = found.await?;
            drop(main);
            if !pooled {
                heard.await;
            }
            Ok(pooled)
        }
        .boxed()
    }

    fn open_lane(&self, silence: Duration) -> Pending<Open<End>> {
        self.connect(Kind::Lock { silence }, silence)
    }

    fn ask(&self, on: &Arc<End>, ask: Ask, patience: Duration) -> Pending<Told> {
        let told = lock(&self.net).ask(on.id, ask);
        self.within(patience, told)
    }
}
