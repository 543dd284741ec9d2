//! Starts everything in the one order that is safe, and ends it in another.

use std::net::SocketAddr;
use std::process::ExitCode;

use crate::cli::RunOptions;

/// Why the agent could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port stayed taken.
    #[error("{name} cannot listen on {address}: {source}")]
    Listen {
        /// Whose port.
        name: &'static str,
        /// Which one.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs the subcommand.
pub fn main(_options: &RunOptions) -> ExitCode {
    ExitCode::FAILURE
}
