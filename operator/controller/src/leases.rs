//! The lease databases that the operator was installed with, each with a session of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use pollux_lease::{BotView, FullLogin, Look, Observer, ObserverState, Request, Resource, Setting};
use tokio_util::sync::CancellationToken;

use crate::cluster::chain;

/// How long a question may take. Shorter than a reconcile's own deadlines: the status must tell about a silent database.
const DEADLINE: Duration = Duration::from_secs(5);

/// All databases, by name.
#[derive(Clone)]
pub(crate) struct Leases {
    databases: BTreeMap<String, Observer>,
    /// Why a database's schema could not be brought up to date.
    without_schema: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What the lease database says of a bot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    /// It answered.
    Bot(Option<Box<BotView>>),
    /// It did not.
    Unreachable {
        /// Why, without secrets.
        error: String,
    },
    /// The operator was not installed with a database of this name.
    Unknown {
        /// Those that it was installed with.
        known: Vec<String>,
    },
}

// === impl Leases ===

impl Leases {
    /// Begins to watch them all.
    pub(crate) fn spawn(files: &BTreeMap<String, PathBuf>) -> Self {
        let databases = files.iter().map(|(name, file)| (name.clone(), Observer::spawn(file.clone()))).collect();
        Self { databases, without_schema: Arc::default() }
    }

    /// Brings all schemas up to date, each as soon as its database answers. Ends when all are, or at `stop`.
    pub(crate) async fn migrate(&self, stop: &CancellationToken) {
        let all = self.databases.iter().map(|(name, observer)| async move {
            let (mut pause, mut reported) = (Duration::from_millis(500), String::new());
            while let Err(error) = observer.migrate().await {
                let error = chain(&error);
                if error != reported {
                    tracing::warn!(database = name, %error, "the schema of the lease database is not there yet");
                    self.without_schema().insert(name.clone(), error.clone());
                    reported = error;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            self.without_schema().remove(name);
            tracing::info!(database = name, "the schema of the lease database is up to date");
        });
        tokio::select! {
            _ = futures::future::join_all(all) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Which resources of this cluster may have changed; `None` is all of them.
    pub(crate) fn changes(&self, cluster: &str) -> SelectAll<BoxStream<'static, Option<(String, String)>>> {
        self.databases
            .values()
            .map(|observer| {
                let cluster = cluster.to_owned();
                observer
                    .changes()
                    .filter_map(move |look| {
                        let what = match look {
                            Look::All => Some(None),
                            Look::At(resource) if resource.cluster == cluster => {
                                Some(Some((resource.namespace, resource.name)))
                            }
                            Look::At(_) => None,
                        };
                        std::future::ready(what)
                    })
                    .boxed()
            })
            .collect()
    }

    /// A stream item for every change of whether a database answers: then all of its bots' statuses change.
    pub(crate) fn ups_and_downs(&self) -> SelectAll<BoxStream<'static, ()>> {
        self.databases
            .values()
            .map(|observer| {
                futures::stream::unfold((observer.state(), None), |(mut state, before)| async move {
                    loop {
                        let up = matches!(*state.borrow_and_update(), ObserverState::Up);
                        if before.is_some_and(|before: bool| before != up) {
                            return Some(((), (state, Some(up))));
                        }
                        if before.is_none() {
                            return Some(((), (state, Some(up))));
                        }
                        state.changed().await.ok()?;
                    }
                })
                .boxed()
            })
            .collect()
    }

    /// What is known of a bot.
    pub(crate) async fn bot(&self, database: &str, resource: &Resource) -> Seen {
        let Some(observer) = self.databases.get(database) else {
            return Seen::Unknown { known: self.databases.keys().cloned().collect() };
        };
        let mut state = observer.state();
        // Just started is not unreachable: without this wait every start would say so in every status.
        let _ = tokio::time::timeout(DEADLINE, state.wait_for(|state| *state != ObserverState::Connecting)).await;
        if let ObserverState::Down { error, .. } = &*state.borrow() {
            return Seen::Unreachable { error: error.clone() };
        }
        match tokio::time::timeout(DEADLINE, observer.bot(resource)).await {
            Ok(Ok(view)) => Seen::Bot(view.map(Box::new)),
            Ok(Err(error)) => {
                // A table that is missing says less than why it could not be made.
                let why = self.without_schema().get(database).cloned();
                Seen::Unreachable { error: why.unwrap_or_else(|| chain(&error)) }
            }
            Err(_) => Seen::Unreachable { error: format!("no answer within {DEADLINE:?}") },
        }
    }

    /// The logins of agents that get no further session. What is not known is none: it only says more of a pod that waits.
    pub(crate) async fn full_logins(&self, database: &str) -> Vec<FullLogin> {
        let Some(observer) = self.databases.get(database) else { return Vec::new() };
        match tokio::time::timeout(DEADLINE, observer.full_logins()).await {
            Ok(Ok(full)) => full,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    fn without_schema(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.without_schema.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the settings of a bot if they differ.
    pub(crate) async fn put(&self, database: &str, resource: &Resource, setting: &Setting) -> Result<(), String> {
        let observer = self.of(database)?;
        answered(observer.put_setting(resource, setting)).await
    }

    /// Asks the agents of a bot for something.
    pub(crate) async fn ask(&self, database: &str, resource: &Resource, request: &Request) -> Result<(), String> {
        let observer = self.of(database)?;
        answered(observer.put_request(resource, request)).await
    }

    fn of(&self, database: &str) -> Result<&Observer, String> {
        self.databases.get(database).ok_or_else(|| format!("no lease database is called {database:?}"))
    }

    /// Removes the settings of a resource that is gone. An attempt: what stays behind names revisions that nobody has.
    pub(crate) async fn forget(&self, resource: &Resource) {
        for observer in self.databases.values() {
            let _ = tokio::time::timeout(DEADLINE, observer.forget(resource)).await;
        }
    }
}

async fn answered<T>(asked: impl Future<Output = Result<T, pollux_lease::Error>>) -> Result<(), String> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {DEADLINE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use pollux_lease::Database;
    use pollux_postgres::{Options, Server};

    use super::*;

    #[tokio::test]
    async fn a_schema_that_cannot_be_made_is_told_by_what_forbids_it() {
        let server = Server::start(&Options::default()).expect("PostgreSQL");
        let uri = server.create_database("leases").expect("a database");
        server.ask("leases", "CREATE ROLE poor LOGIN PASSWORD 'p'").expect("a role");
        let database = Database::parse(&uri).expect("a URI").with_login("poor", "p");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), database.to_uri()).expect("a file");
        let leases = Leases::spawn(&[("default".to_owned(), file.path().to_owned())].into());
        let (stop, bot) = (CancellationToken::new(), Resource::default());
        let told = async {
            loop {
                match leases.bot("default", &bot).await {
                    Seen::Unreachable { error } if error.contains("CREATE on the database") => return,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::select! {
            () = leases.migrate(&stop) => panic!("it has no right to"),
            told = tokio::time::timeout(Duration::from_secs(30), told) => told.expect("it is told"),
        }
        let mend = "GRANT CREATE ON DATABASE leases TO poor; ALTER ROLE poor CREATEROLE";
        server.ask("leases", mend).expect("its rights");
        leases.migrate(&stop).await;
        assert_eq!(leases.bot("default", &bot).await, Seen::Bot(None));
        assert!(leases.without_schema().is_empty());
        assert_eq!(leases.full_logins("default").await, []);
    }
}
