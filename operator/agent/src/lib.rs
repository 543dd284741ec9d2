//! The agent: the process beside a bot that decides when the bot polls Telegram.
//!
//! It joins two parts that know nothing of each other, the lease (who leads, by PostgreSQL) and the gate (the bot's Bot API
//! endpoint), and stands between them and Kubernetes:
//!
//! * [`run`] starts everything in the one order that is safe, and ends it in another;
//! * [`glue`] carries facts between lease and gate, and [`absence`] decides when a leader whose bot is gone gives its
//!   lease away;
//! * [`bot`] is what takes turns: a bot behind the gate, or a [`program`] that [`supervise`] runs in the bot's container;
//! * [`drain`] is the planned way out, whoever asks for it;
//! * [`hook`], [`install`] and [`ready`] are what the kubelet's hooks meet;
//! * [`health`] and [`metrics`] are what probes, people and Prometheus see.
//!
//! # Guarantees
//!
//! * Probes are answered before anything else, and do not depend on PostgreSQL or on Telegram.
//! * The bot is listened to before it starts, and until it is gone.
//! * A pod that ends hands over before its bot gets SIGTERM, if the hook runs, and after it otherwise.
//! * The token and the database's URI are in no argument, variable, log line, metric or answer.

pub mod absence;
pub mod app;
pub mod bot;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod directed;
pub mod drain;
pub mod glue;
pub mod health;
pub mod hook;
pub mod install;
pub mod logs;
pub mod metrics;
pub mod program;
pub mod ready;
pub mod report;
pub mod run;
pub mod settings;
pub mod supervise;

/// Version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
