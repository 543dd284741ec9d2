//! Third step: what should be. Pure; every decision carries its reason.
//!
//! The settings row says `eligible = [new, old…]` before a template is applied, so that whoever has to go hands over to the new
//! revision, also where no controller asks for it; when no pod of another revision is left it says `[new]`. How a new revision
//! comes to lead before that is [`crate::rollout`].

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use pollux_api::TelegramBotSpec;
use pollux_api::names::label;
use pollux_api::words::StrategyType;
use pollux_lease::{Request, Setting};
use serde_json::{Value, json};

use crate::cluster::Refusal;
use crate::diagnose::{is_over, is_terminating, revision};
use crate::leases::Seen;
use crate::migration::{Migrating, migrating};
use crate::observe::Observed;
use crate::revision::{Stored, Verdict};
use crate::rollout::{Answer, Led, Scene, Trial, trial_seconds};
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
    /// The revision that the manifest asks for: another one while it is held, or did not pass.
    pub(crate) target: Option<Stored>,
    /// Revisions to be stored: they are new, or their number, verdict or answers change.
    pub(crate) store: Vec<Stored>,
    /// How many pods.
    pub(crate) replicas: i32,
    /// Whether a PodDisruptionBudget makes sense.
    pub(crate) budget: bool,
    /// Whether the Job of the manifest's revision is to be made.
    pub(crate) migrate: bool,
    /// How Kubernetes goes about it.
    pub(crate) pace: Pace,
    /// Hot settings and who may lead; `None` when there is nothing to say.
    pub(crate) setting: Option<Setting>,
    /// A handover that the leader is asked for.
    pub(crate) request: Option<Request>,
    /// A request of a person that is answered with this.
    pub(crate) answer: Option<Answer>,
    /// Names of stored revisions that are not needed any more.
    pub(crate) prune: Vec<String>,
}

/// How Kubernetes replaces pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// For how long a new pod must have been ready before an old one goes.
    pub(crate) min_ready_seconds: i32,
    /// Nothing moves.
    pub(crate) paused: bool,
}

/// What becomes of the pod template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RolloutDecision {
    /// There is no Deployment yet.
    Create,
    /// The pods have the manifest's revision, or get it.
    Keep,
    /// They have it, and it is on trial.
    Try {
        /// How it is doing.
        trial: Trial,
    },
    /// The template changes now.
    Roll {
        /// The revision that runs.
        from: String,
    },
    /// The template changes when the leader has handed back.
    Return {
        /// To this pod.
        to: String,
        /// Why the revision that runs has to go.
        why: String,
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
    /// The manifest's revision did not pass.
    RolledBack {
        /// Why.
        why: String,
    },
    /// It did not pass, and a person is to decide.
    Failed {
        /// Why.
        why: String,
    },
    /// The migration of the manifest's revision runs.
    Migrating,
    /// It failed, and there is nothing to come back to.
    MigrationFailed {
        /// Why.
        why: String,
    },
    /// `spec.paused`.
    Paused,
    /// The bot is being deleted.
    Deleting,
}

/// Decides.
pub(crate) fn plan(observed: &Observed, stored: &[Stored], target: Result<Target, Invalid>, now: Timestamp) -> Plan {
    let spec = &observed.bot.spec;
    let scene = Scene { observed, stored, now };
    let live = observed.deployment.as_ref().and_then(live_revision);
    let find = |name: Option<&String>| name.and_then(|name| stored.iter().find(|stored| stored.name == *name));
    let running = find(live.as_ref()).cloned();

    let (mut store, mut answer) = (Vec::new(), None);
    let target = target.map(|target| {
        let mut target = numbered(scene, target, running.as_ref());
        let is_live = live.as_ref() == Some(&target.name);
        if let Some((answered, what)) = scene.answer(&target, is_live) {
            (target, answer) = (answered, Some(what));
        } else if let Some(judged) = scene.judge(&target, is_live) {
            target = judged;
        } else if !is_live && target.verdict.is_none() {
            target = migrated(observed, target);
        }
        if find(Some(&target.name)) != Some(&target) {
            store.push(target.clone());
        }
        target
    });
    let stable = target.as_ref().ok().and_then(|target| scene.stable(&target.name)).cloned();
    let goal = target.as_ref().ok().map(|target| match (&target.verdict, &stable) {
        (Some(Verdict::Failed { waits: false, .. }), Some(stable)) => stable.clone(),
        _ => target.clone(),
    });
    let rollout = decide(scene, &target, goal.as_ref(), running.as_ref(), live.as_deref());
    let revision = match (&rollout, target.as_ref()) {
        (RolloutDecision::Hold { .. } | RolloutDecision::Return { .. }, _) | (_, Err(_)) => {
            // Under its new number, if it has one.
            let of_store = store.iter().find(|stored| Some(&stored.name) == live.as_ref());
            of_store.cloned().or(running)
        }
        _ => goal,
    };
    let replicas = if spec.suspend { 0 } else { spec.replicas };
    let foreign = matches!(&rollout, RolloutDecision::Hold { reason: HoldReason::Invalid(invalid) } if invalid.foreign);
    let writable = !foreign && rollout != (RolloutDecision::Hold { reason: HoldReason::Deleting });
    // What waits for something that may take long is not there yet.
    if matches!(
        &rollout,
        RolloutDecision::Hold {
            reason: HoldReason::Paused | HoldReason::DatabaseUnreachable { .. } | HoldReason::OtherDatabase { .. }
        }
    ) {
        store.clear();
    }
    let applied = revision.as_ref().filter(|_| writable);
    let mut request = applied.and_then(|_| request(scene, target.as_ref().ok(), stable.as_ref(), &rollout));
    // What people ask for waits until nothing else is under way, and is written down where it is not forgotten.
    let calm = rollout == RolloutDecision::Keep && store.is_empty() && request.is_none();
    if let Some((answered, what, to_pod)) = applied.filter(|_| calm).and_then(|applied| scene.directed(applied)) {
        request = Some(Request { id: what.value.clone(), to_pod });
        store.push(answered);
        answer = Some(what);
    }
    Plan {
        setting: applied.map(|revision| setting(scene, target.as_ref().ok(), revision, &rollout)),
        prune: if writable { prune(observed, stored, applied, stable.as_ref()) } else { Vec::new() },
        migrate: writable
            && rollout == (RolloutDecision::Hold { reason: HoldReason::Migrating })
            && target.as_ref().is_ok_and(|target| migrating(observed, target) == Migrating::Missing),
        pace: pace(scene, applied, &rollout),
        revision: revision.filter(|_| writable),
        target: target.ok(),
        store: if writable { store } else { Vec::new() },
        request,
        answer,
        rollout,
        replicas,
        budget: replicas >= 2,
    }
}

// === impl Plan ===

impl Plan {
    /// The stored revisions, as they are when this is applied.
    pub(crate) fn known(&self, stored: &[Stored]) -> Vec<Stored> {
        let changed = |old: &&Stored| self.store.iter().all(|new| new.name != old.name);
        stored.iter().filter(changed).chain(&self.store).cloned().collect()
    }
}

/// The manifest's revision. It gets a new number, and is tried anew, when it comes back to take the place of one that passed.
fn numbered(scene: Scene<'_>, target: Target, running: Option<&Stored>) -> Stored {
    let newest = scene.stored.iter().map(|stored| stored.number).max().unwrap_or_default();
    match target {
        Target::New { name, image, template } => Stored::new(&name, newest + 1, &image, template),
        Target::Known(known) => {
            let is_running = running.is_none_or(|running| running.name == known.name);
            // Whoever is on trial did not take its place.
            let never_left = known.passed() && running.is_some_and(|running| !running.passed());
            if is_running || never_left || known.failed().is_some() || known.number == newest {
                return known;
            }
            known.again(newest + 1)
        }
    }
}

/// The revision that a Deployment's template has.
pub(crate) fn live_revision(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(label::REVISION).cloned()
}

fn decide(
    scene: Scene<'_>,
    target: &Result<Stored, Invalid>,
    goal: Option<&Stored>,
    running: Option<&Stored>,
    live: Option<&str>,
) -> RolloutDecision {
    let hold = |reason| RolloutDecision::Hold { reason };
    let observed = scene.observed;
    if observed.bot.metadata.deletion_timestamp.is_some() {
        return hold(HoldReason::Deleting);
    }
    let (target, goal) = match (target, goal) {
        (Ok(target), Some(goal)) => (target, goal),
        (Err(invalid), _) => return hold(HoldReason::Invalid(invalid.clone())),
        (Ok(_), None) => unreachable!("whoever has a target has a goal"),
    };
    if live == Some(goal.name.as_str()) {
        return match (&target.verdict, observed.bot.spec.paused) {
            (Some(Verdict::Failed { why, waits: true }), _) => hold(HoldReason::Failed { why: why.clone() }),
            (Some(Verdict::Failed { why, .. }), _) if goal.name != target.name => {
                hold(HoldReason::RolledBack { why: why.clone() })
            }
            (Some(_), _) => RolloutDecision::Keep,
            (None, true) => hold(HoldReason::Paused),
            (None, false) => RolloutDecision::Try { trial: scene.trial(target) },
        };
    }
    if let Some(database) = other_database(observed) {
        return hold(HoldReason::OtherDatabase { database });
    }
    if observed.bot.spec.paused && live.is_some() {
        return hold(HoldReason::Paused);
    }
    if goal.name == target.name {
        if let Some(why) = target.failed() {
            return hold(HoldReason::MigrationFailed { why: why.to_owned() });
        }
        if matches!(migrating(observed, target), Migrating::Missing | Migrating::Running) {
            return hold(HoldReason::Migrating);
        }
    }
    let Some(live) = live else {
        // Pods of a bot that never ran disturb nobody: they wait for the database beside us.
        return RolloutDecision::Create;
    };
    if let Seen::Unreachable { error } = &observed.lease {
        return hold(HoldReason::DatabaseUnreachable { error: error.clone() });
    }
    // One on trial gives back what it has before it goes.
    let trial = running.filter(|running| !running.passed());
    if let (Some(trial), Some(stable)) = (trial, trial.and_then(|trial| scene.stable(&trial.name)))
        && let Some(pod) = scene.hand_back(target, trial, stable)
    {
        let failed = target.failed().filter(|_| trial.name == target.name);
        let why = failed.map_or_else(|| "another revision is wanted".to_owned(), str::to_owned);
        return RolloutDecision::Return { to: pod.name_any(), why };
    }
    RolloutDecision::Roll { from: live.to_owned() }
}

/// What came of its migration.
fn migrated(observed: &Observed, target: Stored) -> Stored {
    match migrating(observed, &target) {
        Migrating::Done => Stored { migrated: true, ..target },
        Migrating::Failed { why } => Stored { verdict: Some(Verdict::Failed { why, waits: false }), ..target },
        Migrating::NotRequired | Migrating::Missing | Migrating::Running => target,
    }
}

/// During a trial Kubernetes keeps the old pods for as long as it may take.
fn pace(scene: Scene<'_>, applied: Option<&Stored>, rollout: &RolloutDecision) -> Pace {
    let spec = &scene.observed.bot.spec;
    let rolling = spec.strategy.kind == StrategyType::RollingUpdate;
    let on_trial = applied.is_some_and(|applied| {
        !applied.passed()
            && scene.stable(&applied.name).is_some()
            && *rollout != (RolloutDecision::Try { trial: Trial::Plain })
    });
    Pace {
        min_ready_seconds: if rolling && on_trial {
            trial_seconds(spec).max(spec.min_ready_seconds)
        } else {
            spec.min_ready_seconds
        },
        paused: spec.paused || matches!(rollout, RolloutDecision::Hold { reason: HoldReason::Failed { .. } }),
    }
}

/// What the leader is asked for. A request is a row that agents obey once, so its name has the epoch of the leader that is asked.
fn request(
    scene: Scene<'_>,
    target: Option<&Stored>,
    stable: Option<&Stored>,
    rollout: &RolloutDecision,
) -> Option<Request> {
    let Led::By(leader) = scene.led() else { return None };
    let to_pod = match rollout {
        RolloutDecision::Try { trial: Trial::HandingOver { to } } | RolloutDecision::Return { to, .. } => to.clone(),
        RolloutDecision::Hold { reason: HoldReason::Failed { .. } | HoldReason::RolledBack { .. } } => {
            let (target, stable) = (target?, stable?);
            let leads = leader.replica.revision == target.name;
            scene.ready_pod(&stable.name).filter(|_| leads)?.name_any()
        }
        _ => return None,
    };
    let Seen::Bot(Some(view)) = &scene.observed.lease else { return None };
    Some(Request { id: format!("{}.{to_pod}", view.lease.epoch), to_pod })
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

/// Who may lead: the revision that is wanted first, then those that pods still run, newest first. One that did not pass comes
/// last, or not at all when another one is ready.
fn setting(scene: Scene<'_>, target: Option<&Stored>, applied: &Stored, rollout: &RolloutDecision) -> Setting {
    let Scene { observed, stored, .. } = scene;
    let first = match rollout {
        RolloutDecision::Return { to, .. } => observed.pods.iter().find(|pod| pod.name_any() == *to).map(revision),
        _ => None,
    };
    let first = first.unwrap_or(&applied.name);
    let number = |name: &str| stored.iter().find(|stored| stored.name == name).map_or(0, |stored| stored.number);
    let mut running: BTreeSet<&str> =
        observed.pods.iter().filter(|pod| !is_over(pod)).map(revision).filter(|name| !name.is_empty()).collect();
    running.insert(&applied.name);
    // A Deployment whose pods are not there yet, or not there at this moment, still counts.
    let live = observed.deployment.as_ref().and_then(live_revision);
    running.extend(live.as_deref());
    let failed = |name: &str| match target {
        Some(target) if target.name == name => target.failed().is_some(),
        _ => stored.iter().any(|stored| stored.name == name && stored.failed().is_some()),
    };
    let mut eligible: Vec<&str> = running.into_iter().collect();
    eligible.sort_by_key(|name| (failed(name), *name != first, std::cmp::Reverse(number(name))));
    if eligible.iter().any(|name| !failed(name) && scene.ready_pod(name).is_some()) {
        eligible.retain(|name| !failed(name));
    }
    Setting {
        generation: observed.bot.metadata.generation.unwrap_or_default(),
        eligible: Some(eligible.into_iter().map(str::to_owned).collect()),
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

fn prune(observed: &Observed, stored: &[Stored], wanted: Option<&Stored>, stable: Option<&Stored>) -> Vec<String> {
    let live = observed.deployment.as_ref().and_then(live_revision);
    let in_use = |name: &str| {
        wanted.into_iter().chain(stable).any(|used| used.name == name)
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
