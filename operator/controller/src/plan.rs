//! Third step: what should be. Pure; every decision carries its reason.
//!
//! The order of a rollout, for now the Deployment's own: the settings row says `eligible = [new, old…]` before the template
//! is applied, so that the old leader's preStop hands over to the new revision and nothing else can win; when no pod of
//! another revision is left it says `[new]`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use pollux_api::TelegramBotSpec;
use pollux_api::names::label;
use pollux_lease::Setting;
use serde_json::{Value, json};

use crate::cluster::Refusal;
use crate::diagnose::{is_over, is_terminating, revision};
use crate::leases::Seen;
use crate::observe::Observed;
use crate::revision::Stored;
use crate::validate::{Invalid, Target};

/// How many stored revisions are kept besides those in use.
pub(crate) const HISTORY: usize = 10;

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// What becomes of the pod template.
    pub(crate) rollout: RolloutDecision,
    /// The revision that the pods shall have, with its number; `None` when nothing can be applied.
    pub(crate) revision: Option<Stored>,
    /// Whether that revision must be stored (it is new, or its number changes).
    pub(crate) store: bool,
    /// How many pods.
    pub(crate) replicas: i32,
    /// Whether a PodDisruptionBudget makes sense.
    pub(crate) budget: bool,
    /// Hot settings and who may lead; `None` when there is nothing to say.
    pub(crate) setting: Option<Setting>,
    /// Names of stored revisions that are not needed any more.
    pub(crate) prune: Vec<String>,
}

/// What becomes of the pod template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RolloutDecision {
    /// There is no Deployment yet.
    Create,
    /// The pods have the manifest's revision.
    Keep,
    /// The template changes now.
    Roll {
        /// The revision that runs.
        from: String,
    },
    /// The template stays what it is.
    Hold {
        /// Why.
        reason: HoldReason,
    },
}

/// Why a rollout waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HoldReason {
    /// The manifest cannot be applied.
    Invalid(Invalid),
    /// Pods that come now could not take the lease, and who may lead could not be written down.
    DatabaseUnreachable {
        /// What the database said.
        error: String,
    },
    /// The API server does not take what is applied.
    Refused(Refusal),
    /// Pods that hold a lease in another database must be gone first.
    OtherDatabase {
        /// That database.
        database: String,
    },
    /// The bot is being deleted.
    Deleting,
}

/// Decides.
pub(crate) fn plan(observed: &Observed, stored: &[Stored], target: Result<Target, Invalid>) -> Plan {
    let live = observed.deployment.as_ref().and_then(live_revision);
    let spec = &observed.bot.spec;
    let rollout = decide(observed, live.as_deref(), &target);
    let newest = stored.iter().map(|stored| stored.number).max().unwrap_or_default();
    let (revision, store) = match (&rollout, target) {
        (RolloutDecision::Hold { .. }, _) | (_, Err(_)) => {
            (stored.iter().find(|s| Some(&s.name) == live.as_ref()).cloned(), false)
        }
        (_, Ok(Target::New { name, image, template })) => {
            (Some(Stored { name, number: newest + 1, image, template }), true)
        }
        (RolloutDecision::Roll { .. }, Ok(Target::Known(known))) if known.number < newest => {
            (Some(Stored { number: newest + 1, ..known }), true)
        }
        (_, Ok(Target::Known(known))) => (Some(known), false),
    };
    let replicas = if spec.suspend { 0 } else { spec.replicas };
    let foreign = matches!(&rollout, RolloutDecision::Hold { reason: HoldReason::Invalid(invalid) } if invalid.foreign);
    let writable = !foreign && rollout != (RolloutDecision::Hold { reason: HoldReason::Deleting });
    Plan {
        setting: revision.as_ref().filter(|_| writable).map(|revision| setting(observed, stored, revision)),
        prune: if writable { prune(observed, stored, revision.as_ref()) } else { Vec::new() },
        revision: revision.filter(|_| writable),
        store,
        rollout,
        replicas,
        budget: replicas >= 2,
    }
}

/// The revision that a Deployment's template has.
pub(crate) fn live_revision(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(label::REVISION).cloned()
}

fn decide(observed: &Observed, live: Option<&str>, target: &Result<Target, Invalid>) -> RolloutDecision {
    let hold = |reason| RolloutDecision::Hold { reason };
    if observed.bot.metadata.deletion_timestamp.is_some() {
        return hold(HoldReason::Deleting);
    }
    let target = match target {
        Ok(target) => target,
        Err(invalid) => return hold(HoldReason::Invalid(invalid.clone())),
    };
    if live == Some(target.name()) {
        return RolloutDecision::Keep;
    }
    if let Some(database) = other_database(observed) {
        return hold(HoldReason::OtherDatabase { database });
    }
    match (live, &observed.lease) {
        // Pods of a bot that never ran disturb nobody: they wait for the database beside us.
        (None, _) => RolloutDecision::Create,
        (Some(_), Seen::Unreachable { error }) => hold(HoldReason::DatabaseUnreachable { error: error.clone() }),
        (Some(live), _) => RolloutDecision::Roll { from: live.to_owned() },
    }
}

/// A lease database other than the manifest's that a living pod uses. The schema lets it change only in a suspended bot, but
/// pods that drain are still there for a while.
fn other_database(observed: &Observed) -> Option<String> {
    let wanted = &observed.bot.spec.lease.database;
    observed
        .pods
        .iter()
        .filter(|pod| !is_over(pod))
        .filter_map(|pod| pod.annotations().get(label::LEASE_DATABASE))
        .find(|database| *database != wanted)
        .cloned()
}

/// Who may lead: the revision that is wanted first, then those that pods still run, newest first.
fn setting(observed: &Observed, stored: &[Stored], wanted: &Stored) -> Setting {
    let number = |name: &str| stored.iter().find(|stored| stored.name == name).map_or(0, |stored| stored.number);
    let running: BTreeSet<&str> =
        observed.pods.iter().filter(|pod| !is_over(pod)).map(revision).filter(|name| !name.is_empty()).collect();
    let live = observed.deployment.as_ref().and_then(live_revision);
    let mut others: Vec<&str> = running.into_iter().filter(|name| *name != wanted.name).collect();
    // A Deployment whose pods are not there yet, or not there at this moment, still counts.
    if let Some(live) = live.as_deref().filter(|live| *live != wanted.name && !others.contains(live)) {
        others.push(live);
    }
    others.sort_by_key(|name| std::cmp::Reverse(number(name)));
    let eligible = std::iter::once(wanted.name.as_str()).chain(others).map(str::to_owned).collect();
    Setting {
        generation: observed.bot.metadata.generation.unwrap_or_default(),
        eligible: Some(eligible),
        json: hot(&observed.bot.spec),
    }
}

/// The fields that reach running agents.
fn hot(spec: &TelegramBotSpec) -> Value {
    let TelegramBotSpec { lease, polling, handover, .. } = spec;
    json!({
        "leaseDurationSeconds": lease.duration_seconds,
        "failover": lease.failover,
        "fast": lease.fast.clone().unwrap_or_default(),
        "delivery": polling.delivery,
        "settleSeconds": polling.settle_seconds,
        "maxBatch": polling.max_batch,
        "maxUnsettled": polling.max_unsettled,
        "deafAfterSeconds": polling.deaf_after_seconds,
        "pendingUpdates": polling.pending_updates,
        "longPollTimeoutSeconds": polling.long_poll_timeout_seconds,
        "quietSeconds": handover.quiet_seconds,
        "ordering": handover.ordering,
    })
}

fn prune(observed: &Observed, stored: &[Stored], wanted: Option<&Stored>) -> Vec<String> {
    let live = observed.deployment.as_ref().and_then(live_revision);
    let in_use = |name: &str| {
        wanted.is_some_and(|wanted| wanted.name == name)
            || live.as_deref() == Some(name)
            || observed.pods.iter().any(|pod| revision(pod) == name)
    };
    let mut idle: Vec<&Stored> = stored.iter().filter(|stored| !in_use(&stored.name)).collect();
    idle.sort_by_key(|stored| std::cmp::Reverse(stored.number));
    idle.into_iter().skip(HISTORY).map(|stored| stored.name.clone()).collect()
}

/// Whether all pods there are have the manifest's revision and none of another one is left.
pub(crate) fn is_complete(observed: &Observed, deployment: Option<&Deployment>, wanted: &str) -> bool {
    let Some(deployment) = deployment else { return false };
    if live_revision(deployment).as_deref() != Some(wanted) {
        return false;
    }
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let desired = spec.replicas.unwrap_or(1);
    let seen = status.observed_generation.unwrap_or_default() >= deployment.metadata.generation.unwrap_or_default();
    let all = |count: Option<i32>| count.unwrap_or_default() == desired;
    let old = observed.pods.iter().any(|pod| !is_over(pod) && !is_terminating(pod) && revision(pod) != wanted);
    seen && all(status.replicas) && all(status.updated_replicas) && all(status.available_replicas) && !old
}
