//! The Job that has to succeed before the pods of a new revision come. Pure.
//!
//! It is named by the revision and its number, made once, and never changed: an attempt that failed is repeated by Kubernetes
//! (`backoffLimit`), and a new attempt of the same revision has another number. That it succeeded is written on the revision,
//! so it is not made again when the Job has been tidied up, nor when the revision comes back.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pollux_api::TelegramBot;
use pollux_api::names::label;
use pollux_api::spec::Migration;
use serde_json::{Value, json};

use crate::build::metadata;
use crate::observe::Observed;
use crate::revision::Stored;

/// When Kubernetes removes a Job that is over.
const TIDY_UP_SECONDS: i32 = 86_400;

/// How far the migration of a revision is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Migrating {
    /// There is nothing to do.
    NotRequired,
    /// It was done.
    Done,
    /// The Job is to be made.
    Missing,
    /// It runs.
    Running,
    /// It failed.
    Failed {
        /// Why, with the last lines of its log.
        why: String,
    },
}

/// Name of the Job of a revision: a label of its pods, too, so at most 63 characters (40 of the bot's name).
pub(crate) fn job_name(bot: &str, revision: &Stored) -> String {
    format!("{bot}-m{}-{}", revision.number, revision.name)
}

/// How far it is, by the Job that was seen.
pub(crate) fn migrating(observed: &Observed, revision: &Stored) -> Migrating {
    if observed.bot.spec.migration.is_none() {
        return Migrating::NotRequired;
    }
    if revision.migrated {
        return Migrating::Done;
    }
    let name = job_name(&observed.bot.name_any(), revision);
    let Some(job) = observed.migrations.iter().find(|job| job.name_any() == name) else { return Migrating::Missing };
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let condition = |type_: &str| conditions.into_iter().flatten().find(|c| c.type_ == type_ && c.status == "True");
    if condition("Complete").is_some() {
        return Migrating::Done;
    }
    let Some(failed) = condition("Failed") else { return Migrating::Running };
    let reason = failed.reason.clone().unwrap_or_default();
    let said = last_words(&observed.migration_pods, &name);
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    Migrating::Failed { why: format!("its migration, the Job {name}, failed ({reason}){said}") }
}

/// What the newest of its pods said last; the kubelet keeps the end of a failed container's log.
fn last_words(pods: &[Pod], job: &str) -> Option<String> {
    let of_job = pods.iter().filter(|pod| pod.labels().get("batch.kubernetes.io/job-name").is_some_and(|of| of == job));
    let newest = of_job.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0))?;
    let containers = newest.status.as_ref()?.container_statuses.iter().flatten();
    let ended = containers.filter_map(|c| c.state.as_ref()?.terminated.as_ref()).next()?;
    let said = ended.message.as_deref().unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" / ");
    Some(format!("exit code {}{}{last}", ended.exit_code, if last.is_empty() { "" } else { ", " }))
}

/// The Job.
pub(crate) fn job(bot: &TelegramBot, revision: &Stored) -> Option<Value> {
    let spec = &bot.spec;
    let Migration { image, command, args, env, env_from, resources, backoff_limit, active_deadline_seconds } =
        spec.migration.as_ref()?;
    let mut container = json!({
        "name": "migration",
        "image": image.as_ref().unwrap_or(&spec.image),
        "command": command,
        "args": args,
        "env": env,
        "envFrom": env_from,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    if let Some(resources) = resources {
        container["resources"] = json!(resources);
    }
    if let Some(policy) = &spec.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let mut pod_spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "imagePullSecrets": spec.image_pull_secrets,
    });
    // Where the bot's pods may run, and as whom.
    let patched = spec.pod_template.as_ref().and_then(|patch| patch.get("spec"));
    for field in ["securityContext", "nodeSelector", "tolerations", "affinity"] {
        if let Some(chosen) = patched.and_then(|patch| patch.get(field)) {
            match (pod_spec.get_mut(field).and_then(Value::as_object_mut), chosen.as_object()) {
                (Some(ours), Some(theirs)) => ours.extend(theirs.clone()),
                _ => pod_spec[field] = chosen.clone(),
            }
        }
    }
    if let Some(account) = &spec.service_account_name {
        pod_spec["serviceAccountName"] = json!(account);
    }
    Some(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(bot, &job_name(&bot.name_any(), revision)),
        "spec": {
            "backoffLimit": backoff_limit,
            "activeDeadlineSeconds": active_deadline_seconds,
            "ttlSecondsAfterFinished": TIDY_UP_SECONDS,
            "template": {
                "metadata": {
                    "labels": {label::MIGRATION_OF: bot.name_any()},
                    "annotations": {"kubectl.kubernetes.io/default-container": "migration"},
                },
                "spec": pod_spec,
            },
        },
    }))
}
