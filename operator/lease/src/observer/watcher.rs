//! The observer's session: made, listened to, asked now and then, and made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::{info, warn};

use super::{Look, ObserverState, PATIENCE, rows};
use crate::error::Error;
use crate::identity::Resource;
use crate::session::{News, Session, read_file};

/// How often the slow poll looks.
const POLL: Duration = Duration::from_secs(3);
/// Longest pause between attempts to connect.
const LAST_PAUSE: Duration = Duration::from_secs(5);

type Opened = watch::Sender<Option<Arc<Session>>>;
type Prints = BTreeMap<Resource, String>;

/// Runs until nobody holds the observer any more.
pub(super) async fn run(
    file: PathBuf,
    says: watch::Sender<ObserverState>,
    opened: Opened,
    looks: broadcast::Sender<Look>,
    mut broken: mpsc::Receiver<()>,
) {
    let mut attempts = 0_u32;
    while !opened.is_closed() {
        let error = match open(&file).await {
            Ok((session, news)) => {
                attempts = 0;
                let session = Arc::new(session);
                while broken.try_recv().is_ok() {}
                opened.send_replace(Some(session.clone()));
                says.send_replace(ObserverState::Up);
                info!("the lease database answers");
                // Whatever happened meanwhile was missed.
                let _ = looks.send(Look::All);
                let error = attend(&session, news, &looks, &mut broken, &opened).await;
                opened.send_replace(None);
                error
            }
            Err(e) => e,
        };
        fault(&says, &error.to_string());
        let pause = (Duration::from_millis(100) * 2_u32.pow(attempts.min(8))).min(LAST_PAUSE);
        attempts += 1;
        tokio::select! {
            () = sleep(pause.mul_f64(rand::random_range(0.5..1.5))) => {}
            () = opened.closed() => {}
        }
    }
}

async fn open(file: &Path) -> Result<(Session, mpsc::Receiver<News>), Error> {
    let database = read_file(file)?;
    let (session, news) = Session::open(&database, "pollux-controller", PATIENCE).await?;
    session.suits_owner(PATIENCE).await?;
    session.batch("LISTEN pollux", PATIENCE).await?;
    Ok((session, news))
}

/// Passes on what is heard, until the session is of no use any more.
async fn attend(
    session: &Session,
    mut news: mpsc::Receiver<News>,
    looks: &broadcast::Sender<Look>,
    broken: &mut mpsc::Receiver<()>,
    opened: &Opened,
) -> Error {
    let away = |reason: &str| Error::Away { address: session.address().to_owned(), reason: reason.to_owned() };
    let mut poll = interval_at(Instant::now() + POLL, POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Prints> = None;
    loop {
        tokio::select! {
            news = news.recv() => match news {
                Some(News::Notified(payload)) => drop(looks.send(read(&payload))),
                Some(News::Ended(reason)) => return away(&reason),
                None => return away("the connection was closed"),
            },
            _ = broken.recv() => return away("it did not answer in time"),
            () = opened.closed() => return away("nobody observes any more"),
            _ = poll.tick() => match prints(session).await {
                Ok(now) => {
                    compare(seen.as_ref(), &now).into_iter().for_each(|resource| drop(looks.send(Look::At(resource))));
                    seen = Some(now);
                }
                // The schema may not be there yet: whoever calls `migrate` makes it.
                Err(e @ Error::Refused { .. }) => warn!(error = %e, "looking at the leases"),
                Err(e) => return e,
            },
        }
    }
}

async fn prints(session: &Session) -> Result<Prints, Error> {
    let rows = session.all(rows::FINGERPRINTS, &[], PATIENCE).await?;
    Ok(rows
        .iter()
        .map(|row| (Resource { cluster: row.get(0), namespace: row.get(1), name: row.get(2) }, row.get(3)))
        .collect())
}

/// Those that changed, came or went.
fn compare(before: Option<&Prints>, now: &Prints) -> Vec<Resource> {
    let Some(before) = before else { return Vec::new() };
    let changed = now.iter().filter(|(resource, print)| before.get(*resource) != Some(*print));
    let gone = before.iter().filter(|(resource, _)| !now.contains_key(*resource));
    changed.chain(gone).map(|(resource, _)| resource.clone()).collect()
}

/// Whoever sends rubbish makes us look, no more.
fn read(payload: &str) -> Look {
    match serde_json::from_str::<[String; 3]>(payload) {
        Ok([cluster, namespace, name]) => Look::At(Resource { cluster, namespace, name }),
        Err(_) => Look::All,
    }
}

fn fault(says: &watch::Sender<ObserverState>, error: &str) {
    says.send_if_modified(|state| {
        let since = match state {
            ObserverState::Down { error: old, .. } if old == error => return false,
            ObserverState::Down { since, .. } => *since,
            _ => BootInstant::now(),
        };
        warn!(%error, "the lease database");
        *state = ObserverState::Down { error: error.to_owned(), since };
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_payload_is_a_reason_to_look_and_nothing_else() {
        let resource = Resource { cluster: "c".into(), namespace: "n".into(), name: "b".into() };
        assert_eq!(read(r#"["c", "n", "b"]"#), Look::At(resource));
        assert_eq!(read("drop everything"), Look::All);
        assert_eq!(read(""), Look::All);
    }

    #[test]
    fn the_slow_poll_names_what_changed_came_or_went() {
        let at = |name: &str| Resource { name: name.into(), ..Resource::default() };
        let before = Prints::from([(at("same"), "1".into()), (at("changed"), "1".into()), (at("gone"), "1".into())]);
        let now = Prints::from([(at("same"), "1".into()), (at("changed"), "2".into()), (at("new"), "1".into())]);
        assert_eq!(compare(Some(&before), &now), [at("changed"), at("new"), at("gone")]);
        assert_eq!(compare(None, &now), []);
    }
}
