//! The running gate.

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use url::Url;

use crate::metrics::Metrics;
use crate::{DrainOutcome, Drained, Event, Leadership, Settings, Status, Token, TokenError};

/// Where the Bot API is.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `https://api.telegram.org`, or a local Bot API server. A path is kept as a prefix.
    pub url: Url,
    /// Certificates (PEM) that are trusted besides the compiled-in roots.
    pub ca_pem: Option<Vec<u8>>,
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
    /// The extra certificates cannot be used.
    #[error("the CA file of the Bot API holds no usable certificate: {0}")]
    Certificates(String),
}

/// A handle on the running gate; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Status>,
    events: broadcast::Sender<Event>,
    metrics: Metrics,
    bot_id: i64,
}

#[derive(Debug)]
enum Command {
    Leadership(Leadership),
    Settings(Settings),
    Drain(oneshot::Sender<Drained>),
    Terminate,
    Shutdown(oneshot::Sender<()>),
}

// === impl Gate ===

impl Gate {
    /// Serves the bot on `listener` from now on, as a standby. Must be called within a tokio runtime.
    pub fn start(config: Config, listener: TcpListener) -> Result<Self, StartError> {
        let token = Token::read(&config.token_file)?;
        let (commands, _commands) = mpsc::unbounded_channel();
        let (_status, status) = watch::channel(Status::default());
        let (events, _) = broadcast::channel(64);
        drop(listener);
        Ok(Self {
            inner: Arc::new(Inner {
                commands,
                status,
                events,
                metrics: Metrics::default(),
                bot_id: token.bot_id(),
            }),
        })
    }

    /// The bot's user id, from the token.
    pub fn bot_id(&self) -> i64 {
        self.inner.bot_id
    }

    /// Tells the gate whether it leads. To be called after each renewal of the lease, with the new fence.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.send(Command::Leadership(leadership));
    }

    /// Changes the settings.
    pub fn set_settings(&self, settings: Settings) {
        self.send(Command::Settings(settings));
    }

    /// What the gate knows, and each change of it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    /// What happens from now on. A receiver that is 64 events late loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Stops delivering, waits until the bot has finished, confirms at Telegram (R32 steps 1-3). The lease must still be
    /// renewed meanwhile; hand it over as soon as this returns. The gate polls no more until it is told of a later epoch.
    /// Several calls are one drain. On a standby this returns at once (R34).
    pub async fn drain(&self) -> Drained {
        let (done, drained) = oneshot::channel();
        self.send(Command::Drain(done));
        drained.await.unwrap_or(Drained {
            outcome: DrainOutcome::Nothing,
            duration: std::time::Duration::ZERO,
            last_poll_ended: None,
            unacknowledged: 0,
            owed: 0,
            confirmed: true,
        })
    }

    /// The pod ends: never polls again and lets the bot's last `getUpdates` calls return quickly (R32.5).
    pub fn terminate(&self) {
        self.send(Command::Terminate);
    }

    /// Stops accepting connections and waits until the calls in flight are answered (R23).
    pub async fn shutdown(&self) {
        let (done, stopped) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = stopped.await;
    }

    /// Adds the gate's metrics to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
    }

    fn send(&self, command: Command) {
        // The driver lives as long as the process; a closed channel means that the runtime is going down.
        let _ = self.inner.commands.send(command);
    }
}
