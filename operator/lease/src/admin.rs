//! Setting up a lease database: its schema, and the roles of agents.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};

use crate::database::Database;
use crate::error::Error;
use crate::identity::Resource;
use crate::session::{Parameter, Session};
use crate::statements::probe;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The group role that may execute what agents execute. Login roles are members of it.
pub const AGENT_GROUP: &str = "pollux_agent";

/// How long one step may take. Several processes wait for each other here, and a migration may have to wait for agents.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Held while schema or roles are changed: refinery locks nothing, and two processes that migrate at once must be one after
/// the other.
const LOCK: &str = "SET statement_timeout = '60s'; SET lock_timeout = '60s'; SELECT pg_advisory_lock(7881407710934503)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(7881407710934503)";

/// What agents execute, and nothing else.
const GRANTS: &str = "
DO $$
DECLARE
    f regprocedure;
BEGIN
    IF to_regrole('pollux_agent') IS NULL THEN
        BEGIN
            CREATE ROLE pollux_agent NOLOGIN;
        EXCEPTION
            -- Roles belong to the whole server: another database's migration may have been quicker.
            WHEN duplicate_object OR unique_violation THEN NULL;
            -- Agents can still log in as the owner; what needs the group says so when it is needed.
            WHEN insufficient_privilege THEN RETURN;
        END;
    END IF;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pollux FROM PUBLIC;
    GRANT USAGE ON SCHEMA pollux TO pollux_agent;
    FOR f IN SELECT oid FROM pg_proc
              WHERE pronamespace = 'pollux'::regnamespace AND proname IN ('protocol', 'look', 'beat', 'beat_all', 'renew', 'renew_all', 'acquire', 'takeover',
                    'expect_handover', 'handover', 'depart', 'gap', 'rotate')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pollux_agent', f);
    END LOOP;
END $$";

/// A connection of the role that owns the schema.
#[derive(Debug)]
pub struct Admin {
    session: Session,
}

// === impl Admin ===

impl Admin {
    /// Connects, once, with a deadline of ten seconds.
    ///
    /// # Errors
    /// [`Error::is_transient`] tells "not there yet" from "refused".
    pub async fn connect(database: &Database) -> Result<Self, Error> {
        let (session, _) = Session::open(database, "pollux-admin", CONNECT).await?;
        session.suits_owner(CONNECT).await?;
        Ok(Self { session })
    }

    /// Brings the schema up to date. Any number of processes may do it at once.
    ///
    /// # Errors
    /// If the role may not create a schema in this database, or the database does not answer.
    pub async fn migrate(&mut self) -> Result<(), Error> {
        self.session.batch(LOCK, PATIENCE).await?;
        let done = self.migrate_locked().await;
        // If it failed the lock goes with the connection.
        let unlocked = self.session.batch(UNLOCK, PATIENCE).await;
        done.and(unlocked)
    }

    async fn migrate_locked(&mut self) -> Result<(), Error> {
        // CREATE SCHEMA IF NOT EXISTS wants the right to create one even if it is there.
        let there = self.session.one("SELECT to_regnamespace('pollux') IS NOT NULL", &[], PATIENCE).await?;
        if !there.get::<_, bool>(0) {
            self.session.batch("CREATE SCHEMA pollux", PATIENCE).await?;
        }
        let mut runner = embedded::migrations::runner()
            // A newer version has been here: its schema serves this one too.
            .set_abort_missing(false);
        runner.set_migration_table_name("pollux.migration");
        let run = timeout(PATIENCE, runner.run_async(self.session.client())).await;
        run.map_err(|_| Error::Deadline(PATIENCE))?.map_err(|e| Error::Migration(chain(&e)))?;
        self.session.batch(GRANTS, PATIENCE).await
    }

    /// Makes a role with which agents log in, or brings it up to date: its password (as a SCRAM verifier made here: the
    /// password itself reaches no log of the server), what it may do (execute the functions of agents and nothing else), its
    /// time limits. May be repeated.
    ///
    /// # Errors
    /// If the owner may not create roles (CREATEROLE), or the database does not answer.
    pub async fn grant_role(&mut self, user: &str, password: &str, connection_limit: i32) -> Result<(), Error> {
        self.session.batch(LOCK, PATIENCE).await?;
        let done = self.grant_locked(user, password, connection_limit).await;
        let unlocked = self.session.batch(UNLOCK, PATIENCE).await;
        done.and(unlocked)
    }

    /// Makes a login and a namespace a tenant's, together with the namespace's leases: a leader leads on. Without a tenant they
    /// become like those that never were anybody's. Says whether anything changed.
    ///
    /// # Errors
    /// If a bot of the namespace is led in the other tenant too, or the database does not answer.
    pub async fn put_tenant(
        &mut self,
        login: &str,
        cluster: &str,
        namespace: &str,
        tenant: Option<&str>,
    ) -> Result<bool, Error> {
        self.session.batch(LOCK, PATIENCE).await?;
        let tenant = tenant.unwrap_or_default();
        let with: [Parameter<'_>; 4] =
            [(&login, Type::NAME), (&cluster, Type::TEXT), (&namespace, Type::TEXT), (&tenant, Type::TEXT)];
        let done = self.session.one("SELECT pollux.put_tenant($1,$2,$3,$4)", &with, PATIENCE).await;
        let unlocked = self.session.batch(UNLOCK, PATIENCE).await;
        let done = done?;
        unlocked?;
        done.try_get(0).map_err(|e| Error::Answer(e.to_string()))
    }

    /// Takes the lease from a resource's leader: it is refused every renewal, gives the lease away when it hears of it, and loses
    /// it at its fence if it does not. `who` asked and `why` are kept in the log of handovers. Says whether there was a leader
    /// that nobody had asked yet.
    ///
    /// # Errors
    /// If the database does not answer, or the role does not own the schema.
    pub async fn force_release(&self, resource: &Resource, who: &str, why: &str) -> Result<bool, Error> {
        let with = [&resource.cluster, &resource.namespace, &resource.name, who, why].map(ToOwned::to_owned);
        let with: Vec<Parameter<'_>> = with.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let row = self.session.one("SELECT pollux.force_release($1,$2,$3,$4,$5)", &with, CONNECT).await?;
        row.try_get(0).map_err(|e| Error::Answer(e.to_string()))
    }

    async fn grant_locked(&mut self, user: &str, password: &str, connection_limit: i32) -> Result<(), Error> {
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        // The limits bound what one agent's fault costs the others; deadlines of its own it has besides.
        let script = "SELECT concat_ws(';',
            CASE WHEN to_regrole(quote_ident($1)) IS NULL THEN format('CREATE ROLE %I', $1) END,
            format('ALTER ROLE %I LOGIN PASSWORD %L CONNECTION LIMIT %s', $1, $2, $3),
            format('ALTER ROLE %I SET statement_timeout = %L', $1, '1s'),
            format('ALTER ROLE %I SET lock_timeout = %L', $1, '300ms'),
            format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', $1, '1s'),
            format('ALTER ROLE %I SET synchronous_commit = %L', $1, 'on'),
            format('ALTER ROLE %I SET default_transaction_isolation = %L', $1, 'read committed'),
            CASE WHEN to_regrole(quote_ident($1)) IS NULL OR NOT has_database_privilege($1::name, current_database(), 'CONNECT')
                 THEN format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), $1) END,
            format('GRANT pollux_agent TO %I', $1))";
        let with =
            [(&user as &(dyn ToSql + Sync), Type::TEXT), (&verifier, Type::TEXT), (&connection_limit, Type::INT4)];
        let script: String = self.session.one(script, &with, PATIENCE).await?.get(0);
        self.session.batch(&script, PATIENCE).await
    }
}

/// Logs in as an agent would and says whether it could do its work.
///
/// # Errors
/// Why it could not.
pub async fn check_agent(database: &Database) -> Result<(), Error> {
    let (session, _news) = Session::open(database, "pollux-check", CONNECT).await?;
    session.suits_agent(CONNECT).await?;
    probe(&session, CONNECT).await
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
