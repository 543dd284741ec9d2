//! The controller's window on the leases: who leads, who waits, what they report; and the rows that it writes for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use pollux_clock::BootInstant;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_postgres::types::{Json, Type};

use crate::admin::Admin;
use crate::error::Error;
use crate::identity::{BotKey, Replica, Resource};
use crate::session::{Parameter, Session, read_file};
use crate::view::{DrainReport, Request};

mod rows;
mod watcher;

/// How long a statement may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A handle on a lease database; clones are the same session. Reconnects by itself, for ever.
#[derive(Clone, Debug)]
pub struct Observer {
    database_file: PathBuf,
    state: watch::Receiver<ObserverState>,
    session: watch::Receiver<Option<Arc<Session>>>,
    looks: broadcast::Sender<Look>,
    broken: mpsc::Sender<()>,
}

/// Whether the database answers the observer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ObserverState {
    /// The first connection is being made.
    #[default]
    Connecting,
    /// It answers.
    Up,
    /// It does not.
    Down {
        /// Why, without secrets.
        error: String,
        /// Since when.
        since: BootInstant,
    },
}

/// Something may have changed. Never more than a reason to look: any role of the database can cause one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// At this resource.
    At(Resource),
    /// At everything, because it is not known what was missed.
    All,
}

/// Hot settings, as the controller writes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The resource's generation that they were made from.
    pub generation: i64,
    /// The revisions that may lead, the preferred one first; `None` is no restriction.
    pub eligible: Option<Vec<String>>,
    /// Everything else, as a JSON object.
    pub json: Value,
}

/// A login of agents that has all the sessions that its CONNECTION LIMIT allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullLogin {
    /// The role's name.
    pub name: String,
    /// Its limit.
    pub limit: i32,
}

/// Everything that is known of a resource's bot.
#[derive(Clone, Debug, PartialEq)]
pub struct BotView {
    /// The bot that the resource's newest agent serves.
    pub bot: BotKey,
    /// Its lease.
    pub lease: LeaseRow,
    /// The agents of this resource, and of others that share the bot; the holder too.
    pub candidates: Vec<Candidate>,
    /// The last change of leader.
    pub last_handover: Option<Handover>,
    /// The resource's settings row.
    pub setting: Option<Setting>,
    /// The resource's request row.
    pub request: Option<Request>,
}

/// A lease's row.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRow {
    /// The fencing token.
    pub epoch: i64,
    /// Rises with each renewal and each change of holder.
    pub renew_seq: i64,
    /// The TTL that the last renewal wrote.
    pub ttl: Duration,
    /// Who holds it.
    pub holder: Option<Party>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Whether its holder renewed it within the TTL, by the database's clock. For people; nobody takes a lease for it.
    pub fresh: bool,
    /// When it runs out, by the database's clock.
    pub expires_at: Option<Timestamp>,
    /// The holder has begun to drain.
    pub handover_expected: bool,
}

/// One process of the past or present: its pod, and the run of the agent in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Identity of the run.
    pub id: String,
    /// Its pod.
    pub replica: Replica,
}

/// An agent, whether it waits or leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who.
    pub party: Party,
    /// Its bot could lead at once.
    pub ready: bool,
    /// Its pod ends.
    pub leaving: bool,
    /// How old its last sign of life is, by the database's clock.
    pub beat_age: Duration,
    /// What it reports.
    pub report: Value,
}

/// An entry of the log of handovers.
#[derive(Clone, Debug, PartialEq)]
pub struct Handover {
    /// The epoch that began with it; while nobody has taken a released lease, the epoch that will.
    pub epoch: i64,
    /// When, by the database's clock.
    pub time: Timestamp,
    /// Who led before.
    pub from: Option<Party>,
    /// Who leads since.
    pub to: Option<Party>,
    /// Why: one of the words of [`crate::Reason`].
    pub reason: String,
    /// What allowed it: one of the words of [`crate::Evidence`], `release` while nobody has taken it.
    pub evidence: String,
    /// What the drain achieved; nothing where the leader died or did not drain.
    pub drain: Option<DrainReport>,
    /// How long nobody polled: a sum of durations, each measured on one clock. Not known where the leader died.
    pub gap: Option<Duration>,
}

// === impl Observer ===

impl Observer {
    /// Begins to watch the database whose URI is in this file. Must be called within a tokio runtime. Ends with its last
    /// handle.
    pub fn spawn(database_file: PathBuf) -> Self {
        let (says, state) = watch::channel(ObserverState::default());
        let (opened, session) = watch::channel(None);
        let (broken, is_broken) = mpsc::channel(1);
        let looks = broadcast::channel(1024).0;
        tokio::spawn(watcher::run(database_file.clone(), says, opened, looks.clone(), is_broken));
        Self { database_file, state, session, looks, broken }
    }

    /// Whether the database answers.
    pub fn state(&self) -> watch::Receiver<ObserverState> {
        self.state.clone()
    }

    /// What may have changed, from now on: by notification, and by a slow poll for what was missed and for what happens
    /// without anybody writing it (a leader that fell silent). Ends with the observer.
    pub fn changes(&self) -> impl Stream<Item = Look> + Send + Unpin + use<> {
        let looks = self.looks.subscribe();
        Box::pin(futures::stream::unfold(looks, async |mut looks| match looks.recv().await {
            Ok(look) => Some((look, looks)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Look::All, looks)),
            Err(broadcast::error::RecvError::Closed) => None,
        }))
    }

    /// What is known of this resource's bot; `None` before its first agent has reached the database.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn bot(&self, resource: &Resource) -> Result<Option<BotView>, Error> {
        let session = self.session()?;
        let with = named(resource);
        let mut found = self.heard(session.all(rows::BY_CANDIDATE, &with, PATIENCE).await)?;
        if found.is_empty() {
            // Nobody is there now; somebody may have been.
            found = self.heard(session.all(rows::BY_LEASE, &with, PATIENCE).await)?;
        }
        let Some(row) = found.first() else { return Ok(None) };
        let view: Json<rows::BotRow> = row.try_get(0).map_err(|e| Error::Answer(e.to_string()))?;
        Ok(Some(view.0.into()))
    }

    /// The logins of agents at which the next session is refused. Who is refused cannot say so here himself.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn full_logins(&self) -> Result<Vec<FullLogin>, Error> {
        let rows = self.heard(self.session()?.all(rows::FULL_LOGINS, &[], PATIENCE).await)?;
        Ok(rows.iter().map(|row| FullLogin { name: row.get(0), limit: row.get(1) }).collect())
    }

    /// Writes the settings of a resource, if they differ from what is there, and wakes its agents. Says whether they did.
    ///
    /// # Errors
    /// If the database does not answer; whether they were written is then unknown.
    pub async fn put_setting(&self, resource: &Resource, setting: &Setting) -> Result<bool, Error> {
        let json = Json(&setting.json);
        let more: [Parameter<'_>; 3] =
            [(&setting.generation, Type::INT8), (&setting.eligible, Type::TEXT_ARRAY), (&json, Type::JSONB)];
        self.put("SELECT pollux.put_setting($1,$2,$3,$4,$5,$6)", resource, &more).await
    }

    /// Removes settings and request of a resource that is gone. Says whether there were any.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn forget(&self, resource: &Resource) -> Result<bool, Error> {
        self.put("SELECT pollux.forget($1,$2,$3)", resource, &[]).await
    }

    /// Asks the agents of a resource for something; replaces what was asked before. Says whether it is new.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put_request(&self, resource: &Resource, request: &Request) -> Result<bool, Error> {
        let more: [Parameter<'_>; 2] = [(&request.id, Type::TEXT), (&request.to_pod, Type::TEXT)];
        self.put("SELECT pollux.put_request($1,$2,$3,$4,$5)", resource, &more).await
    }

    /// Brings the schema up to date, on a connection of its own. Any number of processes may do it at once.
    ///
    /// # Errors
    /// Why it could not be done; [`Error::is_transient`] says whether to try again.
    pub async fn migrate(&self) -> Result<(), Error> {
        let database = read_file(&self.database_file)?;
        Admin::connect(&database).await?.migrate().await
    }

    async fn put(&self, sql: &str, resource: &Resource, more: &[Parameter<'_>]) -> Result<bool, Error> {
        let session = self.session()?;
        let mut with = Vec::from(named(resource));
        with.extend_from_slice(more);
        let row = self.heard(session.one(sql, &with, PATIENCE).await)?;
        row.try_get(0).map_err(|e| Error::Answer(e.to_string()))
    }

    fn session(&self) -> Result<Arc<Session>, Error> {
        self.session.borrow().clone().ok_or_else(|| Error::Away {
            address: "its address".into(),
            reason: match &*self.state.borrow() {
                ObserverState::Down { error, .. } => error.clone(),
                _ => "no connection yet".into(),
            },
        })
    }

    /// A session that does not answer is given up.
    fn heard<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(Error::is_transient) {
            let _ = self.broken.try_send(());
        }
        result
    }
}

fn named(resource: &Resource) -> [Parameter<'_>; 3] {
    [(&resource.cluster, Type::TEXT), (&resource.namespace, Type::TEXT), (&resource.name, Type::TEXT)]
}
