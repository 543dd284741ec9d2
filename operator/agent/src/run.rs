//! Starts everything in the one order that is safe, and ends it in another.
//!
//! 1. Probes, so that whatever follows can be seen.
//! 2. The port of the gate. Nine libraries end their bot when its first call is refused; from here on a call waits.
//! 3. The hook's binary and its socket, which the pod's end depends on.
//! 4. The credentials, as long as that takes.
//! 5. The gate: the bot is served, as by a standby.
//! 6. The lease: this replica may lead.
//!
//! A pod that goes on after its hook was not meant to end: then the agent ends, because the kubelet starts it anew.
//!
//! SIGTERM hands over (unless a hook did), lets calls in flight finish, and signs off: the bot has gone by then, or is told
//! nothing new. Nothing that a restart does not mend ends the process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use pollux_gate::{Gate, StartError, Upstream};
use pollux_lease::{BotKey, Lease, Replica, Resource, TokenDigest};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::VERSION;
use crate::app::App;
use crate::bot::Bot;
use crate::cli::RunOptions;
use crate::config::{Adapter, Config};
use crate::credentials::{Need, read_lease_uri, read_token, wait_for};
use crate::drain::{Drain, Trigger};
use crate::glue::{DEFAULT_TTL, Glue, gate_settings};
use crate::hook::{Answers, Hook};
use crate::program::Program;
use crate::{health, install, logs};

/// Name of the file in the shared directory whose lock says that an agent of this pod lives.
const ALIVE: &str = "alive";
/// A configuration that only a new pod can mend, as programs usually say it.
const EXIT_USAGE: u8 = 2;
/// What a program that panics ends with.
const EXIT_BUG: i32 = 101;
/// How long calls in flight may take after everything else is done. The bot has exited by then, so there are few.
const LAST_CALLS: Duration = Duration::from_secs(10);
/// How long signing off may take.
const SIGN_OFF: Duration = Duration::from_secs(2);

/// Why the agent could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port stayed taken.
    #[error(
        "{name} cannot listen on {address}: {source}; another container of the pod may use the port, choose another one"
    )]
    Listen {
        /// Whose port.
        name: &'static str,
        /// Which one.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The shared directory does not take what the hook needs.
    #[error(
        "the hook cannot be installed into {dir}: {source}; the directory must be an emptyDir that is writable here and has some MiB left"
    )]
    Hook {
        /// The directory.
        dir: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gate refused its configuration.
    #[error("the gate does not start: {0}")]
    Gate(#[from] StartError),
    /// The system refused something that every process needs.
    #[error("the process cannot run: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the subcommand.
pub fn main(options: &RunOptions) -> ExitCode {
    let (config, logging) = match Config::new(options) {
        Ok(right) => right,
        Err(mistakes) => {
            eprintln!("pollux-agent: {mistakes}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    logs::start(&logging);
    die_of_panics();
    // Two threads: the gate's can be busy with TLS while the other keeps the lease's time. One each, because a call that goes from
    // thread to thread on its way through the gate takes twice as long, and every further one costs memory in every pod.
    let lease = runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).enable_all().build();
    let gate = runtime::Builder::new_current_thread().max_blocking_threads(4).enable_all().build();
    let ended = match (lease, gate) {
        (Ok(lease), Ok(gate)) => gate.block_on(run(&config, lease.handle())),
        (Err(e), _) | (_, Err(e)) => Err(e.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!(error = %e, "the agent ends");
            ExitCode::FAILURE
        }
    }
}

/// An agent of which a part has died is worse than one that is restarted: that takes its own lease back at once.
fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        error!(%panic, "a bug: the agent ends, to be restarted");
        std::process::exit(EXIT_BUG);
    }));
}

/// Serves until SIGTERM, and hands over before it returns. The lease is kept on a runtime of its own.
///
/// # Errors
/// What keeps it from serving at all.
pub async fn run(config: &Config, lease: &runtime::Handle) -> Result<(), RunError> {
    let mut stop = Stop::new()?;
    let identity = &config.identity;
    info!(version = VERSION, namespace = %identity.namespace, bot = %identity.bot, pod = %identity.pod,
        node = %identity.node, revision = %identity.revision, "the agent starts");

    let first_start = !config.shared_dir.join(ALIVE).exists();
    let app = App::new(config, config.listen, first_start, program(config)?);
    let probes = health::bind("health", config.health_listen).await?;
    tokio::spawn(health::serve(probes, app.clone()));
    let door = health::bind("gate", config.listen).await?;
    install_hook(config, &app)?;

    // A task of its own: it goes on while the drain lasts, because the gate must hear of each renewal until the last one.
    let mut serving = tokio::spawn(serve(config.clone(), app.clone(), door, lease.clone()));
    tokio::select! {
        ended = &mut serving => match ended {
            Ok(Ok(never)) => match never {},
            Ok(Err(e)) => return Err(e),
            Err(panic) => return Err(std::io::Error::other(panic).into()),
        },
        () = stop.wanted() => end(config, &app).await,
        () = app.drain().outlived(config.grace_period) => {
            warn!("the pod was not ended after the hook: the kubelet restarted only the bot's container, because a probe of it \
                   failed; the agent ends, to be started anew and take part again");
            app.sign_off(LAST_CALLS, SIGN_OFF).await;
        }
    }
    serving.abort();
    Ok(())
}

fn program(config: &Config) -> Result<Option<Program>, RunError> {
    let dir = &config.shared_dir;
    let program = match config.adapter {
        Adapter::Proxy => return Ok(None),
        Adapter::Process => Program::new(dir, config.drain_timeout),
    };
    program.map(Some).map_err(|source| RunError::Hook { dir: dir.display().to_string(), source })
}

fn install_hook(config: &Config, app: &App) -> Result<(), RunError> {
    let dir = &config.shared_dir;
    let failed = |source| RunError::Hook { dir: dir.display().to_string(), source };
    let binary = install::install(dir).map_err(failed)?;
    let hook = Hook::bind(dir).map_err(failed)?;
    info!(binary = %binary.display(), socket = %hook.path().display(), "the hook is installed");
    tokio::spawn(hook.serve(app.clone()));
    Ok(())
}

/// Returns only if the gate cannot start.
async fn serve(config: Config, app: App, door: TcpListener, runtime: runtime::Handle) -> Result<Infallible, RunError> {
    let token = wait_for(Need::Token, app.waiting(), || read_token(&config.token_file)).await;
    let settings = gate_settings(&config);
    let upstream =
        Upstream { url: config.api_url.clone(), ca_pem: config.api_ca.clone(), proxy: config.proxy_url.clone() };
    let gate_config =
        pollux_gate::Config { token_file: config.token_file.clone(), upstream, settings: settings.clone() };
    let gate = Gate::start(gate_config, door)?;
    let bot = match app.program() {
        None => Bot::proxy(gate.clone()),
        Some(program) => Bot::process(gate.clone(), program),
    };
    app.has_bot(bot.clone());
    info!(bot_id = gate.bot_id(), "the gate serves the bot");

    wait_for(Need::LeaseUri, app.waiting(), || read_lease_uri(&config.lease_uri_file)).await;
    if app.drain().begun() {
        // The pod is on its way out: taking part now would only make others wait for this replica.
        return std::future::pending().await;
    }
    let lease = {
        let _on = runtime.enter();
        Lease::spawn(lease_config(&config, gate.bot_id(), TokenDigest::of(token.expose())))
    };
    drop(token);
    app.has_lease(lease.clone());
    Glue::new(app, bot, lease, settings).run().await;
    std::future::pending().await
}

fn lease_config(config: &Config, bot_id: i64, token: TokenDigest) -> pollux_lease::Config {
    let identity = config.identity.clone();
    pollux_lease::Config {
        database_file: config.lease_uri_file.clone(),
        bot: BotKey { bot_id, server: config.api_url.as_str().trim_end_matches('/').to_owned() },
        token,
        replica: Replica {
            resource: Resource { cluster: identity.cluster, namespace: identity.namespace, name: identity.bot },
            pod: identity.pod,
            pod_uid: identity.pod_uid,
            node: identity.node,
            revision: identity.revision,
        },
        alive_file: Some(config.shared_dir.join(ALIVE)),
        default_ttl: DEFAULT_TTL,
    }
}

/// The way out.
async fn end(config: &Config, app: &App) {
    info!("SIGTERM");
    app.begin_drain(Trigger::Sigterm);
    if timeout(Drain::at_most(config.drain_timeout), app.drain().over()).await.is_err() {
        warn!("the drain did not end in time; the lease expires");
    }
    app.sign_off(LAST_CALLS, SIGN_OFF).await;
    info!("the agent ends");
}

/// The signals that ask for the end.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Stop ===

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
