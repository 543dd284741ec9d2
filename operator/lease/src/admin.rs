//! Setting up a lease database: its schema, and the roles of agents.

use std::time::Duration;

use crate::database::Database;
use crate::error::Error;

/// The group role that may execute what agents execute. Login roles are members of it.
pub const AGENT_GROUP: &str = "pollux_agent";

/// A connection of the role that owns the schema.
#[derive(Debug)]
pub struct Admin {
    patience: Duration,
}

// === impl Admin ===

impl Admin {
    /// Connects, once, with a deadline of ten seconds.
    ///
    /// # Errors
    /// [`Error::is_transient`] tells "not there yet" from "refused".
    pub async fn connect(database: &Database) -> Result<Self, Error> {
        let _ = database;
        Ok(Self {
            patience: Duration::from_secs(10),
        })
    }

    /// Brings the schema up to date. Any number of processes may do it at once.
    ///
    /// # Errors
    /// If the role may not create a schema in this database, or the database does not answer.
    pub async fn migrate(&mut self) -> Result<(), Error> {
        Err(Error::Deadline(self.patience))
    }

    /// Makes a role with which agents log in, or brings it up to date: its password (as a SCRAM verifier made here: the
    /// password itself reaches no log of the server), what it may do (execute the functions of agents and nothing else), its
    /// time limits. May be repeated.
    ///
    /// # Errors
    /// If the owner may not create roles (CREATEROLE), or the database does not answer.
    pub async fn grant_role(
        &mut self,
        user: &str,
        password: &str,
        connection_limit: i32,
    ) -> Result<(), Error> {
        let _ = (user, password, connection_limit);
        Err(Error::Deadline(self.patience))
    }
}

/// Logs in as an agent would and says whether it could do its work.
///
/// # Errors
/// Why it could not.
pub async fn check_agent(database: &Database) -> Result<(), Error> {
    let _ = database;
    Ok(())
}
