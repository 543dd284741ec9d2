//! Bodies that stream through: with an end that is noticed, a bound on silence, and a way to finish reading what the
//! bot sends though nobody wants it any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::answers::BoxError;

/// Nothing moved for this long: the connection is dead (R23: there is no other limit).
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// What is still read of a request whose call has failed: Telegram's own limit for an upload.
const REST: usize = 50 << 20;
const REST_TIME: Duration = Duration::from_secs(30);

/// When a call last moved. Clones are the same.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Mutex<Instant>>);

/// The bot's request body on its way to Telegram; the gate keeps a hold on it.
#[derive(Clone)]
pub(crate) struct Upload {
    body: Arc<Mutex<Incoming>>,
    activity: Activity,
    broken_off: Arc<AtomicBool>,
}

/// Telegram's answer on its way to the bot. `T` is told that the answer went through by [`Finished::finished`], and is
/// dropped either way.
pub(crate) struct Download<T> {
    body: Incoming,
    guard: T,
    idle: Pin<Box<Sleep>>,
}

/// Something that wants to know of the end of an answer.
pub(crate) trait Finished {
    /// The answer was read to its end.
    fn finished(&mut self);
}

// === impl Activity ===

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn bump(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing has moved for [`IDLE`].
    pub(crate) async fn over(&self) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= IDLE {
                return;
            }
            tokio::time::sleep_until(last + IDLE).await;
        }
    }
}

// === impl Upload ===

impl Upload {
    pub(crate) fn new(body: Incoming, activity: Activity) -> Self {
        Self { body: Arc::new(Mutex::new(body)), activity, broken_off: Arc::default() }
    }

    /// The bot went away before it had sent everything.
    pub(crate) fn broken_off(&self) -> bool {
        self.broken_off.load(Ordering::Relaxed)
    }

    /// Reads what is left, so that the bot, which may read its answer only after it has sent everything, gets it.
    pub(crate) async fn finish(mut self) {
        let mut left = REST;
        let reading = async {
            while let Some(Ok(frame)) = self.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(REST_TIME, reading).await;
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.activity.bump();
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.broken_off.store(true, Ordering::Relaxed);
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

// === impl Download ===

impl<T: Finished> Download<T> {
    pub(crate) fn new(body: Incoming, mut guard: T) -> Self {
        if body.is_end_stream() {
            guard.finished();
        }
        Self { body, guard, idle: Box::pin(tokio::time::sleep(IDLE)) }
    }
}

impl<T: Finished + Unpin> http_body::Body for Download<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                // With a known length the body is not asked again after its last byte.
                if frame.is_none() || self.body.is_end_stream() {
                    self.guard.finished();
                }
                self.idle.as_mut().reset(Instant::now() + IDLE);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match self.idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err("nothing came from upstream for ten minutes".into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
