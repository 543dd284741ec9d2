//! The webhook that the bot does not want: deleted at Telegram behind the bot's back until it is gone (R18).
//!
//! The bot is told at once that it is, because some libraries end when this call fails. The leader then asks Telegram, one
//! call at a time, for as long as it leads under the same epoch; a webhook that was left set would refuse every poll.
//!
//! Pending updates are dropped with it only if the settings leave that to the bot, and only when the bot said so while
//! this process led, or at a cold start: what a standby's bot says at its start must not empty the queue of a leader an hour
//! later. For the same reason a drop that fails is soon given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use pollux_clock::BootInstant;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::PendingUpdates;
use crate::answers;
use crate::core::Input;
use crate::driver::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A server that takes the request and says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this time what is pending is not what the bot meant.
const DROP_WITHIN: Duration = Duration::from_secs(10);
/// How long the bot's own call waits for its updates to be dropped: some libraries give up after 5 s.
const DROP_PATIENCE: Duration = Duration::from_secs(4);

/// What is to be done about the webhook.
pub(crate) struct Unwanted {
    wanted_gone: Notify,
    /// The epoch in which the pending updates are to be dropped, and until when, as long as that is not done.
    drop_in: watch::Sender<Option<(i64, BootInstant)>>,
}

// === impl Unwanted ===

impl Unwanted {
    pub(crate) fn new() -> Self {
        Self { wanted_gone: Notify::new(), drop_in: watch::Sender::new(None) }
    }

    /// Has it deleted, with the pending updates if an epoch is given. Any number of calls during one attempt are one more
    /// attempt.
    pub(crate) fn delete(&self, drop_in: Option<i64>) {
        if let Some(epoch) = drop_in {
            self.drop_in(epoch);
        }
        self.wanted_gone.notify_one();
    }

    fn drop_in(&self, epoch: i64) {
        self.drop_in.send_replace(Some((epoch, BootInstant::now() + DROP_WITHIN)));
    }

    /// The drop that was asked for is done, or has no meaning any more.
    fn dropped(&self, epoch: i64) {
        self.drop_in.send_if_modified(|asked| asked.take_if(|(asked, _)| *asked == epoch).is_some());
    }
}

/// The bot wants its pending updates dropped: whether the next [`Unwanted::delete`] does that.
pub(crate) fn wants_drop(shared: &Shared) -> bool {
    let leading = shared.status.borrow().leading.filter(|_| shared.fence.holds());
    let asked = leading.filter(|_| shared.settings.borrow().pending_updates == PendingUpdates::PassThrough);
    if let Some(epoch) = asked {
        shared.unwanted.drop_in(epoch);
    }
    asked.is_some()
}

/// Waits until the updates are dropped, so that the bot's next poll does not bring them; not for long.
pub(crate) async fn drop_done(shared: &Shared) {
    let mut asked = shared.unwanted.drop_in.subscribe();
    let _ = timeout(DROP_PATIENCE, asked.wait_for(Option::is_none)).await;
}

/// Deletes the webhook whenever [`Unwanted::delete`] says so.
pub(crate) async fn keep_away(shared: Arc<Shared>) {
    let mut status = shared.status.clone();
    loop {
        shared.unwanted.wanted_gone.notified().await;
        let Some(epoch) = status.borrow_and_update().leading else {
            continue;
        };
        let deleted = tokio::select! {
            () = delete(&shared, epoch) => true,
            _ = status.wait_for(|status| status.leading != Some(epoch)) => {
                shared.unwanted.dropped(epoch);
                false
            }
        };
        shared.input(Input::WebhookDeleted(deleted));
    }
}

/// Returns when it is gone.
async fn delete(shared: &Shared, epoch: i64) {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = *shared.unwanted.drop_in.borrow();
        let drop_updates = asked.is_some_and(|(asked, until)| asked == epoch && BootInstant::now() < until);
        match timeout(PATIENCE, ask(shared, drop_updates)).await {
            Ok(Ok(())) => {
                if drop_updates {
                    shared.unwanted.dropped(epoch);
                }
                return;
            }
            Ok(Err(wait)) => sleep(wait.unwrap_or_default().max(pause)).await,
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Asks once. The error is how long Telegram wants to be left alone, if it said so.
async fn ask(shared: &Shared, drop_updates: bool) -> Result<(), Option<Duration>> {
    let test = if shared.test_dc.load(std::sync::atomic::Ordering::Relaxed) { "/test" } else { "" };
    let query = drop_updates.then_some("drop_pending_updates=true");
    let path = shared.origin.path(false, &shared.tokens.current(), &format!("{test}/deleteWebhook"), query);
    let request = shared.origin.uri(path).and_then(|uri| Request::get(uri).body(answers::full(Bytes::new())).ok());
    let Some(request) = request else {
        return Err(Some(LAST_PAUSE));
    };
    let Ok(response) = shared.client.request(request).await else {
        debug!("deleteWebhook had no answer");
        return Err(None);
    };
    if response.status() == StatusCode::OK {
        return Ok(());
    }
    debug!(status = response.status().as_u16(), "deleteWebhook failed");
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Err(seconds.map(Duration::from_secs))
}
