//! Which replica of the controller reconciles: a `coordination.k8s.io` Lease.
//!
//! ```text
//!            free, released, or unchanged for its duration on OUR clock
//!  Standby ───────────────────────── PUT with resourceVersion ──────────► Leading until the fence
//!     ▲                                                                     │ renew every 5 s
//!     └──────────────── conflict, or the fence has passed ◄─────────────────┘
//! ```
//!
//! * The fence is dated from the moment *before* the last successful renewal was sent, plus the duration that it wrote, minus
//!   a margin. Never from the answer: a slow answer must not make leadership longer than others believe it is.
//! * A candidate never compares the times in the Lease with its own wall clock. It takes over when it has itself seen the same
//!   `resourceVersion` for the whole duration.
//! * Every write carries the `resourceVersion` that it was decided on, so that of two writers one gets a conflict.
//! * Overlap would be harmless (applies carry resource versions, status is level-based); this keeps it rare.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use pollux_clock::BootInstant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster;

/// How long a silent holder keeps the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews, and a candidate looks.
const RENEW: Duration = Duration::from_secs(4);
/// After a failed call.
const RETRY: Duration = Duration::from_secs(1);
/// How long a call of the election may take: several must fit into the duration.
const CALL: Duration = Duration::from_secs(4);
/// Clocks of two machines drift apart, and a reconcile needs a moment to notice.
const MARGIN: Duration = Duration::from_secs(1);

/// Whether this replica leads, as of now. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<BootInstant>);

/// The candidate.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    fence: watch::Sender<BootInstant>,
    seen: Option<Seen>,
}

/// A Lease that somebody else holds, and since when it has not changed.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    version: String,
    since: BootInstant,
}

/// What to do with a Lease.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    /// There is none: make it.
    Create,
    /// Ours: renew it.
    Renew,
    /// Nobody's: take it.
    TakeFree,
    /// Its holder fell silent: take it.
    TakeOver,
    /// Somebody's: wait.
    Wait,
}

// === impl Leadership ===

impl Leadership {
    /// Whether a side effect may happen now.
    pub(crate) fn is_leading(&self) -> bool {
        BootInstant::now() < *self.0.borrow()
    }

    /// For tests: as if the Lease were held until then.
    #[cfg(test)]
    pub(crate) fn until(fence: BootInstant) -> Self {
        Self(watch::channel(fence).1)
    }

    /// Ends when this replica leads.
    pub(crate) async fn gained(&mut self) {
        while !self.is_leading() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends when it does not lead any more.
    pub(crate) async fn lost(&mut self) {
        loop {
            let left = self.0.borrow_and_update().saturating_since(BootInstant::now());
            if left.is_zero() {
                return;
            }
            // Nobody tells when a fence passes, so wait for the earlier of its passing and a new one.
            let _ = tokio::time::timeout(left, self.0.changed()).await;
        }
    }
}

// === impl Election ===

impl Election {
    /// A candidate for the Lease of this name.
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: &str) -> (Self, Leadership) {
        let (fence, leadership) = watch::channel(BootInstant::ZERO);
        let election = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            fence,
            seen: None,
        };
        (election, Leadership(leadership))
    }

    /// Runs for the Lease until `stop`. Call [`Self::release`] once nothing is written any more.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) {
        let mut reported = String::new();
        loop {
            let pause = match self.step().await {
                Ok(()) => {
                    reported.clear();
                    RENEW
                }
                Err(error) => {
                    if error != reported {
                        tracing::warn!(%error, "the election got no answer");
                        reported = error;
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Gives the Lease back, so that the other replica need not wait for it to run out.
    pub(crate) async fn release(&mut self) {
        self.fence.send_replace(BootInstant::ZERO);
        let Ok(Some(mut lease)) = self.call(self.api.get_opt(&self.name)).await else { return };
        if holder(&lease) != Some(self.identity.as_str()) {
            return;
        }
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        // Whether it arrives or not: we have stopped, and it runs out by itself.
        let _ = self.call(self.api.replace(&self.name, &PostParams::default(), &lease)).await;
    }

    async fn step(&mut self) -> Result<(), String> {
        let lease = self.call(self.api.get_opt(&self.name)).await?;
        let sent = BootInstant::now();
        let decision = decide(&self.identity, lease.as_ref(), &mut self.seen, sent);
        let params = PostParams::default();
        let written = match (&decision, lease) {
            (Decision::Wait, _) | (Decision::Renew | Decision::TakeFree | Decision::TakeOver, None) => {
                self.fence.send_if_modified(|fence| std::mem::replace(fence, BootInstant::ZERO) != BootInstant::ZERO);
                return Ok(());
            }
            (Decision::Create, _) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = claimed(Lease { metadata, spec: None }, &self.identity, true);
                self.call(self.api.create(&params, &lease)).await
            }
            (_, Some(lease)) => {
                let lease = claimed(lease, &self.identity, decision != Decision::Renew);
                self.call(self.api.replace(&self.name, &params, &lease)).await
            }
        };
        match written {
            Ok(_) => {
                if decision != Decision::Renew {
                    tracing::info!(?decision, identity = self.identity, "this replica leads");
                }
                self.fence.send_replace(sent + (DURATION - MARGIN));
                Ok(())
            }
            // The fence stays what it was: whether the write arrived is not known, and what was granted before still holds.
            Err(error) => Err(error),
        }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(cluster::chain(&error)),
            Err(_) => Err(format!("the API server did not answer within {CALL:?}")),
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn decide(identity: &str, lease: Option<&Lease>, seen: &mut Option<Seen>, now: BootInstant) -> Decision {
    let Some(lease) = lease else { return Decision::Create };
    match holder(lease) {
        None => Decision::TakeFree,
        Some(holder) if holder == identity => Decision::Renew,
        Some(_) => {
            let version = lease.resource_version().unwrap_or_default();
            let since = match seen {
                Some(seen) if seen.version == version => seen.since,
                _ => {
                    *seen = Some(Seen { version, since: now });
                    now
                }
            };
            let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(15);
            let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(15));
            if now.saturating_since(since) > duration { Decision::TakeOver } else { Decision::Wait }
        }
    }
}

fn claimed(mut lease: Lease, identity: &str, anew: bool) -> Lease {
    let now = MicroTime(Timestamp::now());
    let old = lease.spec.take().unwrap_or_default();
    let transitions = old.lease_transitions.unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if anew { Some(now.clone()) } else { old.acquire_time },
        renew_time: Some(now),
        lease_transitions: Some(if anew { transitions + 1 } else { transitions }),
        ..LeaseSpec::default()
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn silent_holder_is_deposed_on_our_own_clock_only() {
        let mut seen = None;
        assert_eq!(decide("me", Some(&lease("other", "1")), &mut seen, at(100)), Decision::Wait);
        assert_eq!(decide("me", Some(&lease("other", "1")), &mut seen, at(115)), Decision::Wait);
        assert_eq!(decide("me", Some(&lease("other", "1")), &mut seen, at(116)), Decision::TakeOver);
    }

    #[test]
    fn every_renewal_starts_the_wait_anew() {
        let mut seen = None;
        assert_eq!(decide("me", Some(&lease("other", "1")), &mut seen, at(100)), Decision::Wait);
        assert_eq!(decide("me", Some(&lease("other", "2")), &mut seen, at(114)), Decision::Wait);
        assert_eq!(decide("me", Some(&lease("other", "2")), &mut seen, at(128)), Decision::Wait);
        assert_eq!(decide("me", Some(&lease("other", "2")), &mut seen, at(130)), Decision::TakeOver);
    }

    #[test]
    fn released_lease_is_taken_at_once() {
        assert_eq!(decide("me", Some(&lease("", "1")), &mut None, at(1)), Decision::TakeFree);
        assert_eq!(decide("me", None, &mut None, at(1)), Decision::Create);
        assert_eq!(decide("me", Some(&lease("me", "1")), &mut None, at(1)), Decision::Renew);
    }

    #[tokio::test]
    async fn leadership_ends_at_the_fence_without_anybody_saying_so() {
        let (sender, receiver) = watch::channel(BootInstant::now() + Duration::from_millis(30));
        let mut leadership = Leadership(receiver);
        assert!(leadership.is_leading());
        leadership.lost().await;
        assert!(!leadership.is_leading());
        drop(sender);
    }
}
