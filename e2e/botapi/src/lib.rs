//! An emulator of Telegram's Bot API server, faithful where bots and gates can tell the difference, with a ledger of every update.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use pollux_botapi::{Emulator, Load, Options};
//!
//! let emulator = Emulator::start(Options::default()).await?;
//! emulator.add_bot("123456:secret", "echo_bot")?;
//! // Give the bots emulator.lane("a").await? and emulator.lane("b").await? as their API roots, and start them.
//! emulator.load("123456:secret", Load { count: Some(100), ..Load::default() })?;
//! emulator.until(Duration::from_secs(60), |e| !e.loading("123456:secret")).await;
//! emulator.settled(None, Duration::from_secs(30), None).await?;
//! let verdict = emulator.verdict(Duration::from_secs(5));
//! assert_eq!((verdict.total.counts.lost, verdict.total.counts.dup), (0, 0));
//! # Ok(())
//! # }
//! ```
//!
//! What it models is the published server's source (tdlib/telegram-bot-api 10.0); nothing was run against the real cloud service.
//! Where it differs from it: README.md of this crate.

mod admin;
mod answer;
mod args;
mod body;
mod bot;
mod connections;
mod deliver;
mod emulator;
mod files;
mod flood;
mod http;
mod journal;
mod load;
mod methods;
mod model;
mod reading;
mod server;
mod timeline;
mod tls;
mod updates;
mod verdict;

pub use emulator::Emulator;
pub use model::*;
pub use reading::Reading;
