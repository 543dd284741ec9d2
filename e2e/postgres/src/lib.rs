//! A real PostgreSQL for tests: started from the machine's own binaries on a directory of its own, stopped, killed, frozen
//! and restarted at will, copied, followed by a standby, its wall clock shifted, and reached through a small proxy that loses
//! what it is told to lose.
//!
//! PostgreSQL refuses to run as root, so under root it runs as the user `postgres` (or `nobody`). It listens on loopback
//! only, and dies with the test.

mod pooler;
mod processes;
mod proxy;
mod server;

pub use pooler::Pooler;
pub use processes::cpu_time;
pub use proxy::Proxy;
pub use server::{Options, Server, Snapshot, Stop, Tls};
