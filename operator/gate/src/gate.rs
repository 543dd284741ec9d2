//! The running gate.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollux_clock::BootInstant;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::core::Input;
use crate::driver::{Calls, Driver, Message, Shared};
use crate::fence::{self, Fence};
use crate::metrics::Metrics;
use crate::upstream::{Origin, Tokens};
use crate::{
    DrainOutcome, Drained, Event, Leadership, Settings, Status, Token, TokenError, get_me, pending, server, webhook,
};

/// Where the Bot API is.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `https://api.telegram.org`, or a local Bot API server. A path is kept as a prefix.
    pub url: Url,
    /// Certificates (PEM) that are trusted besides the compiled-in roots.
    pub ca_pem: Option<Vec<u8>>,
    /// An HTTP proxy, `http://host:port`, that everything goes through, polls too, by `CONNECT`.
    ///
    /// A cancelled poll is a TCP reset to the proxy; what the proxy has taken by then it may still pass on.
    pub proxy: Option<Url>,
}

/// What a gate needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that holds the bot token; looked at again while the gate runs.
    pub token_file: PathBuf,
    /// The Bot API.
    pub upstream: Upstream,
    /// The first settings.
    pub settings: Settings,
}

/// Why a gate cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The token file is missing or holds no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The API URL cannot be used.
    #[error("the Bot API URL {url} cannot be used: {reason}")]
    Url {
        /// The URL as configured.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The proxy's URL cannot be used. It may hold a password, so it is not repeated.
    #[error("the URL of the proxy cannot be used: {0}")]
    Proxy(&'static str),
    /// The extra certificates cannot be used.
    #[error("the CA file of the Bot API holds no usable certificate: {0}")]
    Certificates(String),
}

/// A handle on the running gate; clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
    events: broadcast::Sender<Event>,
    stopped: CancellationToken,
}

// === impl Gate ===

impl Gate {
    /// Serves the bot on `listener` from now on, as a standby. Must be called within a tokio runtime.
    pub fn start(config: Config, listener: TcpListener) -> Result<Self, StartError> {
        let token = Token::read(&config.token_file)?;
        let origin = Origin::new(&config.upstream)?;
        let (messages, inbox) = mpsc::unbounded_channel();
        let (published, status) = watch::channel(Status::default());
        let (events, _) = broadcast::channel(64);
        let shared = Arc::new(Shared {
            messages,
            fence: Fence::default(),
            status,
            settings: watch::Sender::new(config.settings),
            tokens: Tokens::new(token),
            token_file: config.token_file,
            client: origin.client(),
            origin,
            metrics: Metrics::new(),
            test_dc: AtomicBool::new(false),
            get_me: get_me::Memory::default(),
            unwanted: webhook::Unwanted::new(),
            calls: Mutex::new(Calls::new()),
            calls_in_flight: AtomicUsize::new(0),
            last_activity: AtomicU64::new(0),
            stopping: CancellationToken::new(),
        });
        let stopped = CancellationToken::new();
        tokio::spawn(Driver::new(shared.clone(), inbox, published, events.clone()).run());
        tokio::spawn(get_me::identify(shared.clone()));
        tokio::spawn(pending::watch(shared.clone()));
        tokio::spawn(webhook::keep_away(shared.clone()));
        let serving = server::serve(shared.clone(), listener);
        let done = stopped.clone();
        tokio::spawn(async move {
            serving.await;
            done.cancel();
        });
        Ok(Self { shared, events, stopped })
    }

    /// The bot's user id, from the token.
    pub fn bot_id(&self) -> i64 {
        self.shared.tokens.current().bot_id()
    }

    /// The token that is used now.
    pub fn token(&self) -> Token {
        self.shared.tokens.current()
    }

    /// Tells the gate whether it leads. To be called after each renewal of the lease, with the new fence.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.shared.input(Input::Leadership(leadership));
    }

    /// Changes the settings.
    pub fn set_settings(&self, settings: Settings) {
        self.shared.settings.send_if_modified(|known| {
            let changed = *known != settings;
            *known = settings;
            changed
        });
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.shared.settings.borrow().clone()
    }

    /// What the gate knows, and each change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// What happens from now on. A receiver that is 64 events late loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The last delivery to the bot or completed call of it. Not part of [`Status`]: it changes with every call.
    pub fn last_activity(&self) -> Option<BootInstant> {
        let nanos = self.shared.last_activity.load(Ordering::Relaxed);
        (nanos > 0).then(|| fence::instant(nanos))
    }

    /// API calls of the bot that are not finished. Not part of [`Status`] either.
    pub fn calls_in_flight(&self) -> usize {
        self.shared.calls_in_flight.load(Ordering::Relaxed)
    }

    /// How they went so far. Not part of [`Status`] either.
    pub fn calls(&self) -> crate::Calls {
        self.shared.metrics.calls()
    }

    /// Stops delivering, waits until the bot has finished, confirms at Telegram (R32 steps 1-3). The lease must still be
    /// renewed meanwhile; hand it over as soon as this returns. The gate polls no more until it is told of a later epoch, or
    /// until [`Gate::resume`].
    /// Several calls are one drain. On a standby this returns at once (R34).
    pub async fn drain(&self) -> Drained {
        let (done, drained) = oneshot::channel();
        let _ = self.shared.messages.send(Message::Drain(done));
        drained.await.unwrap_or(Drained {
            outcome: DrainOutcome::Nothing,
            duration: Duration::ZERO,
            last_poll_ended: None,
            unacknowledged: 0,
            owed: 0,
            confirmed: true,
        })
    }

    /// Waits until the bot's handlers have finished after a drain, or the drain's limit has passed. Returns at once but with
    /// [`crate::Ordering::Fast`]: there [`Gate::drain`] returns when everything is acknowledged.
    pub async fn finished(&self) {
        // The driver ends with the runtime.
        let _ = self.status().wait_for(|status| !status.finishing).await;
    }

    /// The lease was kept: takes one [`Gate::drain`] back. When all are taken back, the gate polls again under the same epoch.
    pub fn resume(&self) {
        self.shared.input(Input::Resume);
    }

    /// Under this epoch nobody had led for so long that a bot's wish to drop its pending updates is passed on
    /// ([`crate::PendingUpdates::ColdStart`]). To be called before [`Gate::set_leadership`] tells of the epoch.
    pub fn cold_start(&self, epoch: i64) {
        self.shared.input(Input::ColdStart { epoch });
    }

    /// The pod ends: never polls again and lets the bot's last `getUpdates` calls return quickly (R32.5).
    pub fn terminate(&self) {
        self.shared.input(Input::Terminate);
    }

    /// Stops accepting connections and waits until the calls in flight are answered (R23). Includes [`Gate::terminate`].
    pub async fn shutdown(&self) {
        self.terminate();
        self.shared.stopping.cancel();
        self.stopped.cancelled().await;
    }

    /// Adds the gate's metrics to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("bot_id", &self.bot_id()).finish_non_exhaustive()
    }
}
