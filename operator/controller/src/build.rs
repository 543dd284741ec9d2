//! Fourth step: the objects. Pure; what goes in has been validated and planned.

use kube::{Resource as _, ResourceExt};
use pollux_api::TelegramBot;
use pollux_api::names::{GROUP, KIND, VERSION, label};
use pollux_api::words::StrategyType;
use serde_json::{Map, Value, json};

use crate::migration;
use crate::observe::{Observed, child_name};
use crate::plan::{Pace, Plan};
use crate::revision::{Stored, object_name};
use crate::template::{labels, selector};

/// Everything that a bot consists of, as it is applied; `None` is not wanted. Destructured without `..` where it is applied,
/// so that a new child cannot be forgotten there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Children {
    /// The revisions that are new or changed.
    pub(crate) revisions: Vec<Value>,
    /// The Job of a revision that is about to come.
    pub(crate) migration: Option<Value>,
    /// An identity without rights, unless the user names one.
    pub(crate) service_account: Option<Value>,
    /// At two replicas and more.
    pub(crate) budget: Option<Value>,
    /// The pods.
    pub(crate) deployment: Option<Value>,
}

/// The children that the plan asks for.
pub(crate) fn build(observed: &Observed, plan: &Plan) -> Children {
    let bot = &observed.bot;
    let revisions = plan.store.iter().map(|revision| controller_revision(bot, revision)).collect();
    let migration = plan.target.as_ref().filter(|_| plan.migrate).and_then(|target| migration::job(bot, target));
    let Some(revision) = &plan.revision else {
        return Children { revisions, migration, service_account: None, budget: None, deployment: None };
    };
    Children {
        revisions,
        migration,
        service_account: bot.spec.service_account_name.is_none().then(|| service_account(bot)),
        budget: plan.budget.then(|| budget(bot)),
        deployment: Some(deployment(observed, revision, plan.replicas, plan.pace)),
    }
}

pub(crate) fn metadata(bot: &TelegramBot, name: &str) -> Map<String, Value> {
    let owner = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "name": bot.name_any(),
        "uid": bot.meta().uid,
        "controller": true,
    });
    let metadata = json!({
        "name": name,
        "namespace": bot.namespace(),
        "labels": labels(&bot.name_any()),
        "ownerReferences": [owner],
    });
    let Value::Object(metadata) = metadata else { unreachable!("an object stays one") };
    metadata
}

fn controller_revision(bot: &TelegramBot, revision: &Stored) -> Value {
    let mut metadata = metadata(bot, &object_name(&bot.name_any(), &revision.name));
    metadata["labels"][label::REVISION] = json!(revision.name);
    let annotations = revision.annotations();
    if !annotations.is_empty() {
        metadata.insert("annotations".into(), Value::Object(annotations));
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": revision.number,
        "data": revision.data(),
    })
}

fn service_account(bot: &TelegramBot) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(bot, &child_name(&bot.name_any())),
        "automountServiceAccountToken": false,
    })
}

fn budget(bot: &TelegramBot) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(bot, &child_name(&bot.name_any())),
        "spec": {
            "maxUnavailable": 1,
            // A pod that is broken anyway must not block the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(&bot.name_any())},
        },
    })
}

/// The Deployment. Its apply carries the resource version that the plan was made from: a controller that was paused and goes
/// on must not apply an old template, which would be a rollback.
pub(crate) fn deployment(observed: &Observed, revision: &Stored, replicas: i32, pace: Pace) -> Value {
    let bot = &observed.bot;
    let mut metadata = metadata(bot, &bot.name_any());
    if let Some(version) = observed.deployment.as_ref().and_then(ResourceExt::resource_version) {
        metadata.insert("resourceVersion".into(), json!(version));
    }
    let strategy = match bot.spec.strategy.kind {
        StrategyType::RollingUpdate => {
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
        }
        StrategyType::Recreate => json!({"type": "Recreate"}),
    };
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "minReadySeconds": pace.min_ready_seconds,
            "progressDeadlineSeconds": bot.spec.progress_deadline_seconds,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(&bot.name_any())},
            "strategy": strategy,
            "template": revision.template,
        },
    });
    // What is false is not stored, and would look different for ever.
    if pace.paused {
        deployment["spec"]["paused"] = json!(true);
    }
    deployment
}
