//! One reconcile: observe → validate → plan → build → apply → status.
//!
//! Only *observe*, *apply* and *status* touch a client; what lies between is pure and tested without one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt};
use pollux_api::names::{GROUP, KIND, MANAGER_STATUS, VERSION};
use pollux_api::words::{ConditionType, Phase};
use pollux_api::{TelegramBot, TelegramBotStatus};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::apply::{self, Applied};
use crate::build::build;
use crate::cluster::{Cluster, Error};
use crate::events;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::observe::{Observed, observe};
use crate::plan::{Plan, RolloutDecision, plan};
use crate::revision::Stored;
use crate::rollout::Trial;
use crate::status::{Facts, status};
use crate::validate::{Operator, validate};

/// How many bots are reconciled at once.
const CONCURRENCY: usize = 8;
/// When a healthy bot is looked at again although nothing happened.
const RESYNC: Duration = Duration::from_secs(300);
/// When a bot that is not well is looked at again: what the kubelet says in events changes no object that is watched.
const SOON: Duration = Duration::from_secs(4);
/// The same when it has not been well for some minutes.
const LATER: Duration = Duration::from_secs(20);

/// What reconciles share.
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) leases: Leases,
    pub(crate) operator: Operator,
    pub(crate) metrics: Metrics,
    /// Name of this replica, for events.
    pub(crate) instance: String,
    limit: Semaphore,
    failures: Mutex<BTreeMap<(String, String), Failures>>,
}

/// How often a bot's reconcile has failed since it last succeeded.
#[derive(Default)]
struct Failures {
    count: u32,
    reported: String,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        cluster: Cluster,
        leases: Leases,
        operator: Operator,
        metrics: Metrics,
        instance: String,
    ) -> Self {
        Self {
            cluster,
            leases,
            operator,
            metrics,
            instance,
            limit: Semaphore::new(CONCURRENCY),
            failures: Mutex::default(),
        }
    }

    fn succeeded(&self, bot: &(String, String)) {
        let mut failures = self.failures.lock().expect("no panic while it is held");
        if failures.insert(bot.clone(), Failures::default()).is_some_and(|before| before.count > 0) {
            tracing::info!(namespace = bot.0, bot = bot.1, "reconciles again");
        }
    }

    /// Counts a failure and says it once: when it is new, and not each time that it repeats.
    fn failed(&self, bot: &(String, String), error: &Error) -> Duration {
        let mut failures = self.failures.lock().expect("no panic while it is held");
        let entry = failures.entry(bot.clone()).or_default();
        entry.count += 1;
        let text = error.to_string();
        if entry.reported != text && !error.is_conflict() {
            tracing::warn!(namespace = bot.0, bot = bot.1, error = text, "a reconcile failed");
            entry.reported = text;
        }
        if error.is_conflict() {
            // Somebody wrote in between; what is there now is looked at again.
            return Duration::from_millis(300);
        }
        Duration::from_secs(60).min(Duration::from_millis(500) * 2u32.saturating_pow(entry.count.min(8)))
    }

    /// Whether the bot had been seen before; it is not known any more.
    pub(crate) fn forget(&self, bot: &(String, String)) -> bool {
        self.failures.lock().expect("no panic while it is held").remove(bot).is_some()
    }
}

/// The reconciler.
pub(crate) async fn reconcile(bot: Arc<PartialObjectMeta<TelegramBot>>, shared: Arc<Shared>) -> Result<Action, Error> {
    let key = (bot.namespace().unwrap_or_default(), bot.name_any());
    let _permit = shared.limit.acquire().await;
    let began = std::time::Instant::now();
    let result = run(&shared, &key).await;
    shared.metrics.reconciled(if result.is_ok() { "ok" } else { "error" }, began.elapsed());
    if result.is_ok() {
        shared.succeeded(&key);
    }
    result
}

/// When a reconcile that failed is tried again.
#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
pub(crate) fn error_policy(bot: Arc<PartialObjectMeta<TelegramBot>>, error: &Error, shared: Arc<Shared>) -> Action {
    Action::requeue(shared.failed(&(bot.namespace().unwrap_or_default(), bot.name_any()), error))
}

async fn run(shared: &Shared, (namespace, name): &(String, String)) -> Result<Action, Error> {
    let Shared { cluster, leases, operator, .. } = shared;
    let Some(observed) = observe(cluster, leases, &operator.cluster, namespace, name).await? else {
        return Ok(Action::await_change());
    };
    let stored: Vec<Stored> = observed.revisions.iter().filter_map(Stored::read).collect();

    let target = apply::dry_run(cluster, &observed, validate(&observed, &stored, operator)).await?;
    let plan = plan(&observed, &stored, target, Timestamp::now());
    let children = build(&observed, &plan);
    let (applied, result) = apply::apply(cluster, leases, &observed, &plan, children).await;
    let plan = match &result {
        Ok(()) => apply::outcome(plan, &applied),
        Err(error) => match error.refusal() {
            Some(refusal) => apply::refused(plan, refusal),
            None => return result.map(|()| Action::await_change()),
        },
    };
    // A refusal lasts until somebody has read of it; it is an error nevertheless, for the back-off.
    let told = tell(shared, &observed, &plan, &applied, &stored).await;
    result.and(told)
}

/// Writes the status if it changed, and the events that belong to the change.
async fn tell(
    shared: &Shared,
    observed: &Observed,
    plan: &Plan,
    applied: &Applied,
    stored: &[Stored],
) -> Result<Action, Error> {
    let known = plan.known(stored);
    let facts =
        Facts { observed, plan, deployment: applied.deployment.as_ref(), stored: &known, now: Timestamp::now() };
    let now = status(&facts);
    let before = observed.bot.status.clone().unwrap_or_default();
    let bot = &observed.bot;
    let (namespace, name) = (bot.namespace().unwrap_or_default(), bot.name_any());
    if observed.bot.status.as_ref() != Some(&now) {
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND,
            // The uid: a bot of the same name that was made a moment ago must not get this one's status.
            "metadata": {"name": name, "namespace": namespace, "uid": bot.meta().uid},
            "status": now,
        });
        shared.cluster.apply_status::<TelegramBot>(MANAGER_STATUS, &namespace, &name, &object).await?;
        for happened in events::between(&before, &now, applied.revision_created) {
            let event = happened.event(bot, &shared.instance, Timestamp::now());
            if happened.type_() == "Warning" {
                tracing::warn!(namespace, bot = name, reason = %happened.reason, "{}", happened.note);
            } else {
                tracing::info!(namespace, bot = name, reason = %happened.reason, "{}", happened.note);
            }
            shared.cluster.create::<Event>(&namespace, &event).await?;
        }
    }
    shared.metrics.bot(&namespace, &name, plan.replicas, &now);
    Ok(Action::requeue(again(&now, &plan.rollout, Timestamp::now())))
}

/// When to look again although nothing happened.
fn again(status: &TelegramBotStatus, rollout: &RolloutDecision, now: Timestamp) -> Duration {
    if matches!(status.phase, Phase::Running | Phase::Suspended | Phase::RolledBack | Phase::Paused) {
        return RESYNC;
    }
    if let RolloutDecision::Try { trial: Trial::Baking { until } } = rollout {
        // Its containers are looked at meanwhile, too.
        return Duration::try_from(until.duration_since(now)).unwrap_or_default().min(SOON);
    }
    let since = status.condition(ConditionType::Ready).map_or(now, |ready| ready.last_transition_time.0);
    if now.duration_since(since).as_secs() < 180 { SOON } else { LATER }
}

#[cfg(test)]
#[path = "reconcile_test.rs"]
mod tests;
