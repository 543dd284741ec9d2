//! What probes and people see of the agent, over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez`, `/healthz`, `/liveness` | 200 while the process answers; it asks neither PostgreSQL nor Telegram, because a restart mends neither |
//! | `/readyz`, `/readiness` | 200 when this replica could lead at once: the gate listens, the credentials are there, the bot has asked for updates. Leading is not part of it: a rollout waits for readiness before it takes the old leader away |
//! | `/health` | everything, as JSON, for people |
//! | `/metrics` | for Prometheus |
//!
//! It is served before anything else is started, so that a pod that waits can say for what.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::run::RunError;

/// Where the answers come from.
pub trait Facts: Clone + Send + Sync + 'static {
    /// For people.
    fn health(&self) -> Health;
    /// Whether this replica could lead at once.
    ///
    /// # Errors
    /// Why it could not.
    fn ready(&self) -> Result<(), String>;
    /// In Prometheus' text format.
    fn metrics(&self) -> String;
}

/// The word that operators of pairs use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// This replica polls Telegram.
    Active,
    /// It could.
    Passive,
}

/// The word that Pollux uses for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Leadership {
    /// This replica polls Telegram.
    Leader,
    /// It could.
    Standby,
}

/// The body of `/health`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// ACTIVE or PASSIVE.
    pub role: Role,
    /// leader or standby.
    pub leadership: Leadership,
    /// The TelegramBot's namespace.
    pub namespace: String,
    /// The TelegramBot's name.
    pub bot: String,
    /// This pod.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// The revision that it runs.
    pub revision: String,
    /// The agent's version.
    pub version: &'static str,
    /// Seconds since the agent started.
    pub uptime_seconds: f64,
    /// Who holds the lease, as far as this agent has seen.
    pub holder: Option<Holder>,
    /// The lease's fencing token, as far as this agent has seen.
    pub epoch: Option<i64>,
    /// Seconds until this leader stops by itself if nothing renews its lease.
    pub lease_remaining_seconds: Option<f64>,
    /// Seconds since PostgreSQL last answered a renewal or a beat.
    pub heartbeat_age_seconds: Option<f64>,
    /// Seconds since the bot was last given something or finished a call.
    pub idle_seconds: Option<f64>,
    /// The last change of leader that this agent took part in.
    pub last_takeover: Option<Takeover>,
    /// The lease database.
    pub database: Database,
    /// The bot's process.
    pub bot_process: BotProcess,
    /// A drain has begun: this pod is about to go.
    pub draining: bool,
    /// What is awaited before this replica can lead, in words.
    pub waiting_for: Vec<String>,
}

/// Who holds the lease.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its pod.
    pub pod: String,
    /// The pod's node.
    pub node: String,
    /// The revision that it runs.
    pub revision: String,
    /// Whether that is this pod.
    pub me: bool,
}

/// A change of leader.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// When, by this pod's wall clock.
    pub at: Timestamp,
    /// The pod that led before, if it is known.
    pub from: Option<String>,
    /// The pod that leads from then on, if there is one.
    pub to: Option<String>,
    /// The lease's new epoch.
    pub epoch: Option<i64>,
    /// Why.
    pub reason: String,
}

/// The lease database.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// It answers.
    pub up: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The bot's process, as seen from the gate.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BotProcess {
    /// It has a connection to the gate.
    pub alive: bool,
    /// It has a request for updates open.
    pub polling: bool,
    /// It has asked for updates since it started.
    pub ready: bool,
    /// It has asked for nothing for a long time.
    pub deaf: bool,
    /// Its user name at Telegram.
    pub username: Option<String>,
    /// What Telegram says of the token: unknown, accepted, rejected.
    pub token: &'static str,
}

/// Binds `address`. A container that was restarted may find its former process still holding the port.
///
/// # Errors
/// If the port stays taken.
pub async fn bind(name: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut said = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                info!(%address, "{name} listens");
                return Ok(listener);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < deadline => {
                if !said {
                    warn!(%address, "{name}: the port is taken, by this container's former process or by another container; trying again");
                    said = true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(source) => {
                return Err(RunError::Listen { name, address, source });
            }
        }
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, facts: impl Facts) {
    // axum's own loop ends only with its runtime.
    let _ = axum::serve(listener, router(facts)).await;
}

fn router<F: Facts>(facts: F) -> Router {
    let alive = get(async || "alive\n");
    let ready = get(ready::<F>);
    Router::new()
        .route("/livez", alive.clone())
        .route("/healthz", alive.clone())
        .route("/liveness", alive)
        .route("/readyz", ready.clone())
        .route("/readiness", ready)
        .route("/health", get(async |State(facts): State<F>| Json(facts.health())))
        .route("/metrics", get(metrics::<F>))
        .with_state(facts)
}

async fn ready<F: Facts>(State(facts): State<F>) -> Response {
    match facts.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn metrics<F: Facts>(State(facts): State<F>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], facts.metrics()).into_response()
}
