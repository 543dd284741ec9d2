//! The controller's window on the leases: who leads, who waits, what they report; and the rows that it writes for them.

use std::path::PathBuf;
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use pollux_clock::BootInstant;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::error::Error;
use crate::identity::{BotKey, Replica, Resource};
use crate::view::Request;

/// A handle on a lease database; clones are the same session. Reconnects by itself, for ever.
#[derive(Clone, Debug)]
pub struct Observer {
    state: watch::Receiver<ObserverState>,
    looks: broadcast::Sender<Look>,
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
    /// Counts the renewals of this epoch's holder, and of those before.
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
    /// The epoch that began with it.
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
    /// How long the drain took.
    pub drain: Option<Duration>,
    /// How it ended, in one word.
    pub drain_outcome: Option<String>,
    /// How long nobody polled: a sum of durations, each measured on one clock. Not known where the leader died.
    pub gap: Option<Duration>,
}

// === impl Observer ===

impl Observer {
    /// Begins to watch the database whose URI is in this file. Must be called within a tokio runtime.
    pub fn spawn(database_file: PathBuf) -> Self {
        drop(database_file);
        let (_state, state) = watch::channel(ObserverState::default());
        Self {
            state,
            looks: broadcast::channel(1024).0,
        }
    }

    /// Whether the database answers.
    pub fn state(&self) -> watch::Receiver<ObserverState> {
        self.state.clone()
    }

    /// What may have changed, from now on: by notification, and by a slow poll for what was missed and for what happens
    /// without anybody writing it (a leader that fell silent).
    pub fn changes(&self) -> impl Stream<Item = Look> + Send + use<> {
        let looks = self.looks.subscribe();
        futures::stream::unfold(looks, async |mut looks| match looks.recv().await {
            Ok(look) => Some((look, looks)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((Look::All, looks)),
            Err(broadcast::error::RecvError::Closed) => None,
        })
    }

    /// What is known of this resource's bot; `None` before its first agent has reached the database.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn bot(&self, resource: &Resource) -> Result<Option<BotView>, Error> {
        let _ = resource;
        Err(Error::Away {
            address: String::new(),
            reason: "not connected".into(),
        })
    }

    /// Writes the settings of a resource, if they differ from what is there, and wakes its agents. Says whether they did.
    ///
    /// # Errors
    /// If the database does not answer; whether they were written is then unknown.
    pub async fn put_setting(&self, resource: &Resource, setting: &Setting) -> Result<bool, Error> {
        let _ = (resource, setting);
        Err(Error::Away {
            address: String::new(),
            reason: "not connected".into(),
        })
    }

    /// Removes settings and request of a resource that is gone. Says whether there were any.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn forget(&self, resource: &Resource) -> Result<bool, Error> {
        let _ = resource;
        Err(Error::Away {
            address: String::new(),
            reason: "not connected".into(),
        })
    }

    /// Asks the agents of a resource for something; replaces what was asked before. Says whether it is new.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn put_request(&self, resource: &Resource, request: &Request) -> Result<bool, Error> {
        let _ = (resource, request);
        Err(Error::Away {
            address: String::new(),
            reason: "not connected".into(),
        })
    }

    /// Brings the schema up to date, on a connection of its own. Any number of processes may do it at once.
    ///
    /// # Errors
    /// Why it could not be done; [`Error::is_transient`] says whether to try again.
    pub async fn migrate(&self) -> Result<(), Error> {
        Err(Error::Away {
            address: String::new(),
            reason: "not connected".into(),
        })
    }
}
