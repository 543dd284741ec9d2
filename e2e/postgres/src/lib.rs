//! A real PostgreSQL for tests: Debian's server on a temporary folder and a free port of loopback, with the faults that tests
//! need, and a proxy for those that only a network can have.
//!
//! ```no_run
//! # async fn test() {
//! use pollux_postgres::Postgres;
//! let postgres = Postgres::start().await;
//! let uri = postgres.database("mine").await;
//! postgres.pause();
//! postgres.resume();
//! # }
//! ```
//!
//! Everything panics with a clear message when it fails: this is for tests.

mod proxy;
mod server;

pub use proxy::{Proxy, Weather};
pub use server::Postgres;
