//! What can go wrong with a lease database, sorted by what helps.

use std::io;

use crate::database::UriError;

/// Why something could not be done with the lease database. No message holds a password or a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file that holds the URI cannot be read.
    #[error("the file {path} with the lease database's URI cannot be read: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The URI is not one, or asks for what Pollux does not know.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// Its certificates cannot be used.
    #[error("TLS to the lease database: {0}")]
    Tls(String),
    /// It cannot be reached, is starting up, or is shutting down.
    #[error("the lease database at {address} is away: {reason}")]
    Away {
        /// Where it should be.
        address: String,
        /// What was heard of it.
        reason: String,
    },
    /// It did not answer in time; whether the statement had an effect is unknown.
    #[error("the lease database did not answer within {0:?}")]
    Deadline(std::time::Duration),
    /// It answers, and leases must not be kept there, or not by this version.
    #[error("the lease database at {address} cannot be used: {reason}")]
    Unfit {
        /// Where it is.
        address: String,
        /// Why not, and how to mend it.
        reason: String,
    },
    /// It answered that it does not want to.
    #[error("the lease database refuses: {message} (SQLSTATE {code}){}", .mend.map(|m| format!("; {m}")).unwrap_or_default())]
    Refused {
        /// PostgreSQL's error code.
        code: String,
        /// PostgreSQL's message.
        message: String,
        /// How to mend it, where that is known.
        mend: Option<&'static str>,
    },
    /// It answered what this version does not understand.
    #[error("the lease database answers what this version of Pollux does not understand: {0}")]
    Answer(String),
    /// The schema's migrations did not go through.
    #[error("the migrations of the lease database failed: {0}")]
    Migration(String),
}

// === impl Error ===

impl Error {
    /// Whether the bot's lease is kept with another token than the caller's.
    pub(crate) fn is_another_token(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "PX001")
    }

    /// Whether trying again can help without anybody mending something.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Deadline(_))
    }
}
