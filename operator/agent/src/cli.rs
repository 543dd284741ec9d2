//! The command line. Every option of `run` is a flag and an environment variable, because a pod template sets variables
//! and a person at a terminal sets flags.
//!
//! Options are taken as text here and judged in [`crate::config`]: a parser that stops at the first mistake makes its
//! user start a pod per mistake.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where the agent's binary, its socket and its death certificate lie in every pod.
pub const SHARED_DIR: &str = "/run/pollux/agent";

/// The agent of a Telegram bot's pod.
#[derive(Debug, Parser)]
#[command(
    name = "pollux-agent",
    version,
    about = "Runs beside a Telegram bot: elects one leader among its replicas and lets only that one poll Telegram.",
    long_about = "Runs beside a Telegram bot, in the same pod, as a native sidecar. It is the bot's Bot API endpoint \
                  (http://127.0.0.1:8081); it holds or waits for the lease in PostgreSQL that says which replica polls \
                  Telegram; and before its pod is stopped it hands that lease to another replica, so that no message is \
                  lost or answered twice.",
    after_help = "A pod runs `run`; the kubelet execs `wait-ready` after its start and `drain` before the bot stops.",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the bot and take part in the election until SIGTERM
    #[command(after_long_help = RUN_HELP)]
    Run(Box<RunOptions>),
    /// Wait until the agent of this pod can serve a bot (postStart hook of the agent's container)
    #[command(after_long_help = WAIT_READY_HELP)]
    WaitReady(WaitReadyOptions),
    /// Hand over to another replica and wait until it is done (preStop hook of the bot's container)
    #[command(after_long_help = DRAIN_HELP)]
    Drain(DrainOptions),
    /// Run the bot's program while this pod leads (first process of the bot's container, with the adapter Process)
    #[command(after_long_help = SUPERVISE_HELP)]
    Supervise(SuperviseOptions),
    /// Become the program that a supervisor runs
    #[command(hide = true)]
    Execute(ExecuteOptions),
    /// Print the version
    Version,
}

/// Options of `run`, as they were typed.
#[derive(Clone, Debug, Default, Args)]
pub struct RunOptions {
    /// Id of the Kubernetes cluster, so that two clusters can share one database
    #[arg(long, env = "POLLUX_CLUSTER", value_name = "ID")]
    pub cluster: Option<String>,
    /// Namespace of the TelegramBot
    #[arg(long, env = "POLLUX_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the TelegramBot
    #[arg(long, env = "POLLUX_BOT", value_name = "NAME")]
    pub bot: Option<String>,
    /// Name of this pod (downward API: metadata.name)
    #[arg(long, env = "POLLUX_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Uid of this pod (downward API: metadata.uid)
    #[arg(long, env = "POLLUX_POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// Node of this pod (downward API: spec.nodeName)
    #[arg(long, env = "POLLUX_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the revision that this pod runs
    #[arg(long, env = "POLLUX_REVISION", value_name = "NAME")]
    pub revision: Option<String>,
    /// Bot API server to forward to
    #[arg(long, env = "POLLUX_API_URL", value_name = "URL", default_value = "https://api.telegram.org")]
    pub api_url: String,
    /// File with the certificates (PEM) of the CA that the Bot API server's certificate comes from, if it is your own
    #[arg(long, env = "POLLUX_API_CA_FILE", value_name = "FILE")]
    pub api_ca_file: Option<String>,
    /// HTTP proxy on the way to the Bot API server (http://host:port), if there is no other way
    #[arg(long, env = "POLLUX_PROXY_URL", value_name = "URL")]
    pub proxy_url: Option<String>,
    /// File with the bot's token
    #[arg(long, env = "POLLUX_TOKEN_FILE", value_name = "FILE", default_value = "/run/pollux/token/token")]
    pub token_file: String,
    /// File with the URI of the database that holds the lease
    #[arg(long, env = "POLLUX_LEASE_URI_FILE", value_name = "FILE", default_value = "/run/pollux/lease/uri")]
    pub lease_uri_file: String,
    /// Directory shared with the bot's container: the hook's binary and socket go there
    #[arg(long, env = "POLLUX_SHARED_DIR", value_name = "DIR", default_value = SHARED_DIR)]
    pub shared_dir: String,
    /// Where the bot finds its Bot API; only loopback is accepted
    #[arg(long, env = "POLLUX_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8081")]
    pub listen: String,
    /// Where the kubelet finds /livez and /readyz, Prometheus /metrics, and people /health
    #[arg(long, env = "POLLUX_HEALTH_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:9464")]
    pub health_listen: String,
    /// How long a drain may wait for the bot to finish what it has
    #[arg(long, env = "POLLUX_DRAIN_TIMEOUT_SECONDS", value_name = "SECONDS", default_value = "20")]
    pub drain_timeout_seconds: String,
    /// When the kubelet ends a pod whatever it does: the pod's terminationGracePeriodSeconds
    #[arg(long, env = "POLLUX_GRACE_PERIOD_SECONDS", value_name = "SECONDS", default_value = "45")]
    pub grace_period_seconds: String,
    /// How the bot takes turns: proxy (it asks the gate for updates), or process (it runs only while this pod leads)
    #[arg(long, env = "POLLUX_ADAPTER", value_name = "ADAPTER", default_value = "proxy")]
    pub adapter: String,
    /// What to log: error, warn, info, debug, trace, or directives such as pollux_gate=debug
    #[arg(long, env = "POLLUX_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How to log: json, text, or auto (text on a terminal)
    #[arg(long, env = "POLLUX_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: String,
}

/// Options of `wait-ready`.
#[derive(Clone, Debug, Args)]
pub struct WaitReadyOptions {
    /// Directory shared with the bot's container
    #[arg(long, env = "POLLUX_SHARED_DIR", value_name = "DIR", default_value = SHARED_DIR)]
    pub shared_dir: PathBuf,
    /// Give up after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout_seconds: u32,
}

/// Options of `drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainOptions {
    /// Directory shared with the agent's container
    #[arg(long, env = "POLLUX_SHARED_DIR", value_name = "DIR", default_value = SHARED_DIR)]
    pub shared_dir: PathBuf,
}

/// Options of `supervise`.
#[derive(Clone, Debug, Args)]
pub struct SuperviseOptions {
    /// Directory shared with the agent's container
    #[arg(long, env = "POLLUX_SHARED_DIR", value_name = "DIR", default_value = SHARED_DIR)]
    pub shared_dir: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<String>,
}

/// Options of `execute`.
#[derive(Clone, Debug, Args)]
pub struct ExecuteOptions {
    /// The supervisor's process
    #[arg(long)]
    pub parent: i32,
    /// The program is not started at or after this reading of `CLOCK_BOOTTIME`, in nanoseconds
    #[arg(long)]
    pub until: u64,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

const RUN_HELP: &str = "\
The token and the database's URI are read from files and never printed. A file that is missing or empty is waited for: \
/health says so, and nothing is restarted.

SIGTERM hands over (if `drain` did not do it before), lets calls in flight finish, and ends with status 0.

Try it by hand, with a database and a token of yours:
  pollux-agent run --cluster dev --namespace default --bot echo --pod-name me --pod-uid 1 --node-name here \\
    --revision one --token-file ./token --lease-uri-file ./uri --shared-dir /tmp/echo
  curl -s localhost:9464/health
Then start the bot with its API root set to http://127.0.0.1:8081.";

const WAIT_READY_HELP: &str = "\
Looked at from inside the pod: the agent answers on its socket, it listens for the bot, and the copy of the binary that \
the bot's preStop hook will exec can be executed (a node that mounts the kubelet's directory noexec is found here, and not \
when the first message is lost). Ends with status 0 when all of that is so, otherwise with status 1 and the reason.";

const DRAIN_HELP: &str = "\
Stops the flow of updates, waits until the bot has answered those that it has, hands the lease to another replica, and \
only then returns, so that Kubernetes signals a bot that has nothing left to lose. Ends with status 0 at once if the agent \
is gone or this replica does not lead. May be called more than once, by any user id.";

const SUPERVISE_HELP: &str = "\
For bots that poll by themselves (MTProto libraries, constants in the code). Starts the program when the agent of this pod leads, \
and tells it to end (SIGTERM, then SIGKILL) before another pod may lead; a program that outlives the lease is killed, whether the \
agent lives or not. Other signals are passed on. A program that ends by itself ends the supervisor with its status, so that \
Kubernetes counts and shows it as usual.";
