//! What the controller answers. Written by one field manager, whole, and only when something in it changed.
#![allow(unreachable_pub, reason = "the derived schemas repeat each struct inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::schema;
use crate::words::{ConditionType, HandoverReason, Phase, RevisionState, RolloutStage};

/// What was seen of a TelegramBot.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TelegramBotStatus {
    /// The generation of the resource that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// How it is, in one word for people: Pending, Running, Migrating, Progressing, Paused, RolledBack, Degraded, Suspended, Terminating.
    #[serde(default)]
    pub phase: Phase,

    /// What is going on, or wrong, and how to mend it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,

    /// Pods that could lead at once, of those wanted: "2/3".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,

    /// The bot at Telegram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BotIdentity")]
    pub bot: Option<BotIdentity>,

    /// The pod that receives updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Leader")]
    pub leader: Option<Leader>,

    /// The last change of leadership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LastHandover")]
    pub last_handover: Option<LastHandover>,

    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that are ready: able to lead at once.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Pods that have been ready for `spec.minReadySeconds`.
    #[serde(default)]
    pub available_replicas: i32,

    /// Pods of the manifest's revision.
    #[serde(default)]
    pub updated_replicas: i32,

    /// Pods that are ready and do not lead.
    #[serde(default)]
    pub standby_replicas: i32,

    /// Selects the pods; for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// The revision that was rolled out completely last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Revision")]
    pub current_revision: Option<Revision>,

    /// The manifest's revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Revision")]
    pub update_revision: Option<Revision>,

    /// The newest rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Rollout")]
    pub rollout: Option<Rollout>,

    /// What was done about the last request by annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LastAction")]
    pub last_action: Option<LastAction>,

    /// The revisions that are kept, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub revisions: Vec<KnownRevision>,

    /// Calls of the bot that were not passed on to Telegram, or not as they were made, by method: `getUpdates` and `deleteWebhook`
    /// would have dropped pending updates, `setWebhook` ended polling, `logOut` locked the bot out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::methods")]
    pub suppressed_calls: Vec<String>,

    /// Ready, Available, LeaderElected, Progressing, Migrated, SpecValid, TokenAccepted, ForeignPoller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// `status.bot`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BotIdentity {
    /// The bot's id.
    pub id: i64,

    /// The bot's user name, without @.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
}

/// `status.leader`. There is no time of renewal: it would be a write every two seconds for every bot.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// Name of the pod.
    pub pod_name: String,

    /// Its UID.
    #[serde(rename = "podUID", default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,

    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,

    /// Since when it has led.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub acquire_time: Option<Time>,

    /// The fencing token: rises with every change of the leader.
    pub epoch: i64,

    /// Name of the pod's revision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
}

/// `status.lastHandover`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastHandover {
    /// The pod that led before, if there was one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,

    /// The pod that led afterwards.
    pub to: String,

    /// Why, in one word.
    pub reason: HandoverReason,

    /// The epoch that began.
    pub epoch: i64,

    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub time: Option<Time>,

    /// Milliseconds that the old leader took to finish what it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub duration_milliseconds: Option<i64>,

    /// How that ended, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub drain_outcome: String,

    /// Updates that the old leader's bot had and had not acknowledged when that ended: the new leader's bot got them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub unacknowledged_updates: Option<i64>,

    /// Updates that the old leader's bot was probably still working on when that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub owed_updates: Option<i64>,

    /// Milliseconds without a poll, from the end of the last one to the start of the first one. The sum of durations that
    /// were each measured on one clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub gap_milliseconds: Option<i64>,
}

/// A revision: one set of choices of the user.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Its name: a hash over the choices.
    pub name: String,

    /// Its number: the newest has the greatest, also after going back.
    pub number: i64,

    /// The bot's image in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
}

/// `status.rollout`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Name of the revision that is rolled out.
    pub revision: String,

    /// Its number.
    pub number: i64,

    /// How far it is.
    pub stage: RolloutStage,

    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub start_time: Option<Time>,

    /// When the stage began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub stage_time: Option<Time>,
}

/// `status.lastAction`: what was done about the last request by annotation.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAction {
    /// The annotation.
    pub request: String,

    /// Its value.
    pub value: String,

    /// What was done.
    pub result: String,

    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub time: Option<Time>,
}

/// A revision that is kept.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownRevision {
    /// Its name: a hash over the choices.
    pub name: String,

    /// Its number: the newest has the greatest, also after going back.
    pub number: i64,

    /// The bot's image in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,

    /// What became of it.
    pub state: RevisionState,

    /// When it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub creation_time: Option<Time>,

    /// Why it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

// === impl TelegramBotStatus ===

impl TelegramBotStatus {
    /// The condition of that type.
    pub fn condition(&self, type_: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == type_.as_str())
    }

    /// Whether the condition of that type is `True`.
    pub fn is_true(&self, type_: ConditionType) -> bool {
        self.condition(type_).is_some_and(|c| c.status == "True")
    }
}
