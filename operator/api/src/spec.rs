//! What a user writes. The smallest manifest is seven lines:
//!
//! ```yaml
//! apiVersion: pollux.dev/v1alpha1
//! kind: TelegramBot
//! metadata: {name: echo, namespace: bots}
//! spec:
//!   image: ghcr.io/acme/echo-bot:1.0.0
//!   tokenSecretRef: {name: echo-token}
//! ```
//!
//! Doc comments of fields are what `kubectl explain` prints. A field is here when it works, and not before: adding one is
//! compatible, removing one is not. Options are skipped when empty, otherwise a null would be sent and owned under
//! server-side apply.
#![allow(unreachable_pub, reason = "the derived schemas repeat each struct inside a function")]

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::schema;
use crate::status::TelegramBotStatus;
use crate::words::{
    Adapter, Delivery, ImagePullPolicy, LeaseFailover, LogLevel, OnFailure, Ordering, PendingUpdates, StrategyType,
};

/// A Telegram bot: one image, one token, any number of replicas of which exactly one receives updates.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "pollux.dev",
    version = "v1alpha1",
    kind = "TelegramBot",
    plural = "telegrambots",
    shortname = "tgbot",
    category = "telegram",
    namespaced,
    derive = "PartialEq",
    doc = "A Telegram bot: one image, one token, any number of replicas of which exactly one receives updates. Planned changes hand the polling session over without losing or doubling a message; after a crash another replica takes over.",
    status = "TelegramBotStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Pods that could lead at once, of those wanted"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader.podName", description = "The pod that receives updates"),
    printcolumn(name = "Held", type_ = "date", json_path = ".status.leader.acquireTime", description = "For how long it has led"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How it is, in one word"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when the resource exists"),
    printcolumn(name = "Bot", type_ = "string", json_path = ".status.bot.username", priority = 1, description = "The bot's name at Telegram"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.leader.nodeName", priority = 1, description = "Where the leader runs"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.leader.epoch", priority = 1, description = "Rises with every change of the leader"),
    printcolumn(name = "Rev", type_ = "integer", json_path = ".status.updateRevision.number", priority = 1, description = "Number of the manifest's revision"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1, description = "The bot's image"),
    printcolumn(name = "Last-Handover", type_ = "string", json_path = ".status.lastHandover.reason", priority = 1, description = "Why leadership changed last"),
    printcolumn(name = "Gap-Ms", type_ = "integer", json_path = ".status.lastHandover.gapMilliseconds", priority = 1, description = "Milliseconds without a poll at that change"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1, description = "What is going on, or wrong, and how to mend it"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name may have at most 40 characters, because names of pods start with it: choose a shorter one"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.lease.database == oldSelf.lease.database || (self.suspend && oldSelf.suspend)").message("lease.database can change only while the bot is suspended, because two databases would elect two leaders: set spec.suspend to true, wait until no pod is left, change lease.database, set spec.suspend to false"),
    validation = Rule::new("self.lease.database == 'default' || has(self.lease.credentialsSecretRef)").message("lease.database is where the operator looks; the agents go where their Secret leads, and pollux-lease leads to the database default: set lease.credentialsSecretRef to a Secret for this one"),
    validation = Rule::new("self.minReadySeconds < self.progressDeadlineSeconds").message("progressDeadlineSeconds must be greater than minReadySeconds, otherwise no rollout could succeed: raise progressDeadlineSeconds or lower minReadySeconds"),
    validation = Rule::new("self.handover.drainTimeoutSeconds + self.analysis.bakeSeconds + 25 < self.progressDeadlineSeconds").message("progressDeadlineSeconds must be greater than handover.drainTimeoutSeconds + analysis.bakeSeconds + 25 (takeover 15 s, slack 10 s): raise progressDeadlineSeconds, or lower one of the others"),
    validation = Rule::new("!has(self.env) || self.env.all(e, !(e.name in ['TELEGRAM_API_ROOT', 'TELEGRAM_API_URL', 'TELOXIDE_API_URL', 'TELEGRAM_BOT_TOKEN_FILE']))").message("TELEGRAM_API_ROOT, TELEGRAM_API_URL, TELOXIDE_API_URL and TELEGRAM_BOT_TOKEN_FILE are set by Pollux: remove them from env; the server to talk to is spec.botApi.url"),
    validation = Rule::new("!has(self.agent.apiURLEnv) || self.agent.apiURLEnv.all(n, !(n in ['TELEGRAM_API_ROOT', 'TELEGRAM_API_URL', 'TELOXIDE_API_URL', 'TELEGRAM_BOT_TOKEN_FILE']) && (!has(self.env) || self.env.all(e, e.name != n)))").message("the variables in agent.apiURLEnv are set by Pollux, and so are TELEGRAM_API_ROOT, TELEGRAM_API_URL, TELOXIDE_API_URL and TELEGRAM_BOT_TOKEN_FILE: remove the name from agent.apiURLEnv or from env"),
    validation = Rule::new("self.polling.adapter != 'Process' || (has(self.command) && self.command.size() > 0 && self.command[0] != '')").message("with polling.adapter: Process the program is started by Pollux, which cannot read the image's entry point: set command to it (and args to what follows), as crane config or docker inspect show Entrypoint and Cmd"),
    validation = Rule::new("self.polling.adapter != 'Process' || (self.handover.ordering == 'Strict' && !has(self.handover.quietSeconds))").message("with polling.adapter: Process a handover waits for the end of the program and for nothing else: remove handover.ordering and handover.quietSeconds"),
    validation = Rule::new("!has(self.env) || self.env.all(e, !(has(e.value) && has(e.valueFrom)))").message("a variable in env has either value or valueFrom: remove one of them")
)]
pub struct TelegramBotSpec {
    /// The bot's container image. The bot has to use TELEGRAM_API_ROOT as the address of the Bot API (one that cannot: see
    /// polling.adapter), and must not run as root: a numeric USER in the image, or runAsUser in podTemplate.spec.securityContext.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: String,

    /// When the node asks the registry for the image: Always, IfNotPresent or Never. Kubernetes decides by the tag unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImagePullPolicy")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets with the credentials of the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Replaces the image's entry point. Required with polling.adapter: Process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub command: Vec<String>,

    /// Replaces the arguments of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub args: Vec<String>,

    /// Environment of the bot. TELEGRAM_API_ROOT, TELEGRAM_API_URL, TELOXIDE_API_URL and TELEGRAM_BOT_TOKEN_FILE are added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::env")]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets whose keys become environment of the bot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::env_from")]
    pub env_from: Vec<EnvFromSource>,

    /// Requests and limits of the bot's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,

    /// The ServiceAccount of the pods. Unless set, one without any rights is made. Its token is not mounted; set
    /// podTemplate.spec.automountServiceAccountToken to true for that (the agent gets it too).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Merged over the pod template that Pollux makes (a strategic merge patch: lists of containers, volumes and variables
    /// are merged by name). The containers are called `bot` and `agent`. What keeps the handover safe cannot be overridden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_object")]
    pub pod_template: Option<Map<String, Value>>,

    /// How many pods run. One of them receives updates, the others stand by. 1 makes updates without a gap; 2 makes drains
    /// and crashes short as well.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Takes all pods away, after a clean handover, and keeps everything else.
    #[serde(default)]
    pub suspend: bool,

    /// Holds a rollout where it is: no pod of another revision comes or goes, and nothing is decided about one on trial.
    #[serde(default)]
    pub paused: bool,

    /// The Secret with the bot's token. It is mounted read-only into the agent and the bot; TELEGRAM_BOT_TOKEN_FILE names the file.
    /// Put a new token into the same Secret: it is read again, and nothing has to be restarted.
    pub token_secret_ref: TokenSecretRef,

    /// The Bot API server.
    #[serde(default)]
    pub bot_api: BotApi,

    /// How updates are received.
    #[serde(default)]
    pub polling: Polling,

    /// The lease that decides who leads.
    #[serde(default)]
    pub lease: Lease,

    /// What happens when a leader goes in an orderly way.
    #[serde(default)]
    pub handover: Handover,

    /// How a new revision replaces the old one.
    #[serde(default)]
    pub strategy: Strategy,

    /// What a new revision has to show while it leads on trial.
    #[serde(default)]
    pub analysis: Analysis,

    /// A Job that has to succeed before the pods of a new revision come, for a change of the bot's database that the old revision can
    /// live with. It runs once for each revision, beside the pods that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Migration")]
    pub migration: Option<Migration>,

    /// What happens when a new revision does not pass. `Rollback`: the old revision, whose pods are still there, takes over again, and
    /// the new one is not tried again until the manifest changes or somebody asks for it. `Pause`: the old revision takes over
    /// again, and everything stays as it is until a person decides.
    #[serde(default)]
    pub on_failure: OnFailure,

    /// For how many seconds a new pod must have been ready before an old one goes.
    #[serde(default = "defaults::min_ready_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: i32,

    /// After how many seconds without progress a rollout counts as failed (condition Progressing; the reason is what keeps the
    /// pod from getting ready, or DeadlineExceeded if that is not known).
    #[serde(default = "defaults::progress_deadline_seconds")]
    #[schemars(range(min = 30, max = 86400))]
    pub progress_deadline_seconds: i32,

    /// The agent that runs beside the bot.
    #[serde(default)]
    pub agent: Agent,
}

/// A key of a Secret that holds a bot token.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecretRef {
    /// Name of the Secret, in the bot's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its key.
    #[serde(default = "defaults::token_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// `spec.botApi`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.caConfigMapRef) || self.url.startsWith('https://')").message("botApi.caConfigMapRef has no effect on an http:// address: use https:// in botApi.url or remove botApi.caConfigMapRef")
)]
pub struct BotApi {
    /// Address of the Bot API server. Another one than Telegram's is a local Bot API server.
    #[serde(default = "defaults::bot_api_url")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?#@ ]*)?$')").message("botApi.url must be http:// or https://, a host and perhaps a path, without user, query or fragment, such as https://api.telegram.org"))]
    pub url: String,

    /// A ConfigMap with certificates (PEM) to trust besides the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CaConfigMapRef")]
    pub ca_config_map_ref: Option<CaConfigMapRef>,
}

/// A key of a ConfigMap that holds certificates.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaConfigMapRef {
    /// Name of the ConfigMap, in the bot's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its key.
    #[serde(default = "defaults::ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// `spec.polling`. All of it but the adapter reaches running pods without a restart.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.adapter != 'Process' || (self.delivery == 'Transparent' && self.pendingUpdates == 'Keep' && !has(self.maxUnsettled))").message("with polling.adapter: Process the program gets its updates by itself, so nothing can be done about their delivery: remove polling.delivery, polling.pendingUpdates and polling.maxUnsettled"),
)]
pub struct Polling {
    /// How the bots of several pods take turns. `Proxy`: all of them run and ask their agents for updates; a handover takes
    /// milliseconds. `Process`: only the leader's program runs, for bots that cannot change the address of the Bot API, and for
    /// libraries that speak MTProto (Telethon, Pyrogram). It is started when its pod leads, and has ended (SIGTERM, after
    /// handover.drainTimeoutSeconds SIGKILL) before another pod leads, so a handover takes as long as its end and its start.
    /// Ready means that it can be executed. Needs command. Makes new pods.
    #[serde(default)]
    pub adapter: Adapter,

    /// When Telegram is told that the bot has an update. `Transparent`: as soon as the bot's library says so; planned changes lose
    /// and repeat nothing, and in a crash what the library had acknowledged and not yet handled is lost. `Settled`: when
    /// settleSeconds have passed since its delivery and no call of the bot is open; after a crash it is repeated and not lost.
    /// Reaches running pods without a restart.
    #[serde(default)]
    pub delivery: Delivery,

    /// With `delivery: Settled`: for how many seconds after its delivery an update may still be in the works though the bot calls
    /// nothing. Should exceed what a handler takes. Reaches running pods without a restart.
    #[serde(default = "defaults::settle_seconds")]
    #[schemars(range(min = 1, max = 30))]
    pub settle_seconds: i32,

    /// How many updates the bot is given at once, at most: all of them must be handled before a handover. Reaches running pods
    /// without a restart.
    #[serde(default = "defaults::max_batch")]
    #[schemars(range(min = 1, max = 100))]
    pub max_batch: i32,

    /// The bot is given no more updates while so many of them are unsettled: it limits what a library can queue that acknowledges
    /// before it handles. No limit unless set. Reaches running pods without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 10000))]
    pub max_unsettled: Option<i32>,

    /// After how many seconds in which it neither asked for updates nor called anything a bot counts as hung: its pod is not ready
    /// any more, and hands over if another one is. Must exceed what a handler takes. Reaches running pods without a restart.
    #[serde(default = "defaults::deaf_after_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub deaf_after_seconds: i32,

    /// What becomes of a bot's wish to drop its pending updates, with which many start. `Keep`: they are kept, or every new pod
    /// would lose messages. `ColdStart`: they are dropped if nobody has led for ten minutes. `PassThrough`: the bot decides.
    /// Reaches running pods without a restart.
    #[serde(default)]
    pub pending_updates: PendingUpdates,

    /// The longest time in seconds that a request for updates stays open at the server, whatever the bot asks for. Reaches
    /// running pods without a restart.
    #[serde(default = "defaults::long_poll_timeout_seconds")]
    #[schemars(range(min = 1, max = 50))]
    pub long_poll_timeout_seconds: i32,
}

/// `spec.lease`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.fast) || self.failover == 'Fast'").message("lease.fast has a meaning only with lease.failover: Fast"),
)]
pub struct Lease {
    /// One of the databases that the operator was installed with. Agents go where their Secret leads, which must be the same
    /// database. Can change only while the bot is suspended.
    #[serde(default = "defaults::lease_database")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub database: String,

    /// The Secret with the PostgreSQL URI that the agents use: `pollux-lease`, key `uri`, unless set. Pods whose Secrets lead to
    /// different databases would elect two leaders: suspend the bot before another database is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CredentialsSecretRef")]
    pub credentials_secret_ref: Option<CredentialsSecretRef>,

    /// For how many seconds a leader that fell silent keeps the lease. Reaches running pods without a restart.
    #[serde(default = "defaults::lease_duration_seconds")]
    #[schemars(range(min = 3, max = 60))]
    pub duration_seconds: i32,

    /// How the end of a leader is found out that was killed or cut off. `Ttl`: it has been silent for durationSeconds. `Fast`: its
    /// database session has ended, which shows in about a second after a kill and in four when it was cut off; needs a
    /// direct connection to PostgreSQL 14 or newer (no transaction pooler) and one more connection for each pod. Reaches running
    /// pods without a restart.
    #[serde(default)]
    pub failover: LeaseFailover,

    /// Times of `failover: Fast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FastFailover")]
    pub fast: Option<FastFailover>,
}

/// `spec.lease.fast`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.sessionTimeoutMilliseconds >= 2 * self.fenceMilliseconds").message("lease.fast.sessionTimeoutMilliseconds must be at least twice fenceMilliseconds, or a leader's session ends while it still leads"),
)]
pub struct FastFailover {
    /// For how long a leader goes on after the last heartbeat that PostgreSQL answered. A stall of the database that is longer
    /// interrupts it.
    #[serde(default = "defaults::fence_milliseconds")]
    #[schemars(range(min = 300, max = 5000))]
    pub fence_milliseconds: i32,

    /// After which silence PostgreSQL ends a leader's session. A stall that is longer may depose it.
    #[serde(default = "defaults::session_timeout_milliseconds")]
    #[schemars(range(min = 600, max = 30000))]
    pub session_timeout_milliseconds: i32,
}

/// A key of a Secret that holds a PostgreSQL URI.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecretRef {
    /// Name of the Secret, in the bot's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its key.
    #[serde(default = "defaults::lease_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// `spec.handover`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.quietSeconds) || self.quietSeconds == 0 || self.quietSeconds < self.drainTimeoutSeconds").message("handover.quietSeconds must be less than drainTimeoutSeconds, otherwise no drain could end in time: lower quietSeconds or raise drainTimeoutSeconds"),
)]
pub struct Handover {
    /// How many seconds a leader that goes may take to finish the updates that it has. The pods' grace period follows from it.
    #[serde(default = "defaults::drain_timeout_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub drain_timeout_seconds: i32,

    /// For how many seconds a bot that goes must have called nothing to be taken for having finished. Unless set, this follows from
    /// how long this bot's handlers were silent before; set it for a bot with handlers that are silent for longer and rarely run.
    /// Reaches running pods without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 600))]
    pub quiet_seconds: Option<i32>,

    /// What a handover waits for. `Strict`: the bot has finished what it was given, so updates are handled in order. `Fast`: it has
    /// acknowledged it, and may still be working while the next leader's bot gets newer ones; nothing is lost by that.
    /// Reaches running pods without a restart.
    #[serde(default)]
    pub ordering: Ordering,
}

/// `spec.strategy`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// `RollingUpdate`: a pod of the new revision gets ready, leads on trial (see `spec.analysis`), and then the old ones go.
    /// `Recreate`: the old pods go before the new ones come, for bots of which two must not run at once; nobody receives updates
    /// meanwhile, and there is no trial.
    #[serde(default, rename = "type")]
    pub kind: StrategyType,
}

/// `spec.analysis`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// For how many seconds a new revision leads on trial, while the pods of the old one stand by.
    #[serde(default = "defaults::bake_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub bake_seconds: i32,

    /// How often the containers of a new pod may have restarted.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max_container_restarts: i32,

    /// How many of its calls the Bot API server may refuse (4xx other than 429, and 5xx), in percent. Counts from five refusals on.
    #[serde(default = "defaults::max_api_error_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_api_error_percent: i32,
}

/// `spec.migration`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.command) && self.command.size() > 0) || (has(self.args) && self.args.size() > 0)").message("migration.command or migration.args must say what to run, because the image's entry point is the bot: set one of them"),
)]
pub struct Migration {
    /// Its image. Unless set, the bot's. It must not run as root: what podTemplate says about the user, the nodes and tolerations
    /// holds for it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub command: Vec<String>,

    /// Replaces the arguments of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub args: Vec<String>,

    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::env")]
    pub env: Vec<EnvVar>,

    /// ConfigMaps and Secrets whose keys become its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::env_from")]
    pub env_from: Vec<EnvFromSource>,

    /// Requests and limits of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,

    /// How often it is tried again when it fails.
    #[serde(default = "defaults::backoff_limit")]
    #[schemars(range(min = 0, max = 10))]
    pub backoff_limit: i32,

    /// After how many seconds it has failed, however often it was tried.
    #[serde(default = "defaults::active_deadline_seconds")]
    #[schemars(range(min = 1, max = 86400))]
    pub active_deadline_seconds: i32,
}

/// `spec.agent`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.apiPort != self.metricsPort").message("agent.apiPort and agent.metricsPort must differ, because the agent listens on both: change one of them"),
)]
pub struct Agent {
    /// Image of the agent. Unless set, the one that the operator was installed with; a new one of those arrives with the
    /// bot's next revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// Requests and limits of the agent's container: 5m and 16Mi requested, 64Mi at most, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,

    /// How much the agent logs: error, warn, info, debug or trace.
    #[serde(default)]
    pub log_level: LogLevel,

    /// More variables of the bot that are set to the address of the Bot API, besides TELEGRAM_API_ROOT, TELEGRAM_API_URL and
    /// TELOXIDE_API_URL: whatever the bot calls it.
    #[serde(rename = "apiURLEnv", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::variables")]
    pub api_url_env: Vec<String>,

    /// Port of the Bot API on the pod's loopback, for pods in which something else needs the usual one.
    #[serde(default = "defaults::api_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub api_port: i32,

    /// Port of the agent's probes and metrics.
    #[serde(default = "defaults::metrics_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub metrics_port: i32,

    /// The HTTP proxy through which the agent reaches the Bot API server. It must need no password: this is no place for one.
    #[serde(rename = "proxyURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^http://[^/?#@ ]+/?$')").message("agent.proxyURL must be http://, a host and a port, such as http://proxy.internal:3128, without user and password: everybody who may read the resource or the pod could read them, so use a proxy that lets the pods in without"))]
    pub proxy_url: Option<String>,
}

// === impl Default: what the API server stores for an absent object ===

impl Default for BotApi {
    fn default() -> Self {
        Self { url: defaults::bot_api_url(), ca_config_map_ref: None }
    }
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            adapter: Adapter::default(),
            delivery: Delivery::default(),
            settle_seconds: defaults::settle_seconds(),
            max_batch: defaults::max_batch(),
            max_unsettled: None,
            deaf_after_seconds: defaults::deaf_after_seconds(),
            pending_updates: PendingUpdates::default(),
            long_poll_timeout_seconds: defaults::long_poll_timeout_seconds(),
        }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            database: defaults::lease_database(),
            credentials_secret_ref: None,
            duration_seconds: defaults::lease_duration_seconds(),
            failover: LeaseFailover::default(),
            fast: None,
        }
    }
}

impl Default for FastFailover {
    fn default() -> Self {
        Self {
            fence_milliseconds: defaults::fence_milliseconds(),
            session_timeout_milliseconds: defaults::session_timeout_milliseconds(),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            image: None,
            resources: None,
            log_level: LogLevel::default(),
            api_url_env: Vec::new(),
            api_port: defaults::api_port(),
            metrics_port: defaults::metrics_port(),
            proxy_url: None,
        }
    }
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            bake_seconds: defaults::bake_seconds(),
            max_container_restarts: 0,
            max_api_error_percent: defaults::max_api_error_percent(),
        }
    }
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            drain_timeout_seconds: defaults::drain_timeout_seconds(),
            quiet_seconds: None,
            ordering: Ordering::default(),
        }
    }
}

// === impl Handover ===

impl Handover {
    /// `terminationGracePeriodSeconds` of the pods: drain, takeover, slack.
    pub const fn grace_period_seconds(&self) -> i32 {
        self.drain_timeout_seconds + crate::names::TAKEOVER_TIMEOUT_SECONDS + crate::names::GRACE_SLACK_SECONDS
    }
}

mod defaults {
    pub(super) fn replicas() -> i32 {
        1
    }
    pub(super) fn min_ready_seconds() -> i32 {
        5
    }
    pub(super) fn backoff_limit() -> i32 {
        1
    }
    pub(super) fn active_deadline_seconds() -> i32 {
        600
    }
    pub(super) fn bake_seconds() -> i32 {
        30
    }
    pub(super) fn max_api_error_percent() -> i32 {
        50
    }
    pub(super) fn progress_deadline_seconds() -> i32 {
        600
    }
    pub(super) fn token_key() -> String {
        "token".into()
    }
    pub(super) fn ca_key() -> String {
        "ca.crt".into()
    }
    pub(super) fn lease_key() -> String {
        crate::names::LEASE_SECRET_KEY.into()
    }
    pub(super) fn bot_api_url() -> String {
        "https://api.telegram.org".into()
    }
    pub(super) fn settle_seconds() -> i32 {
        3
    }
    pub(super) fn max_batch() -> i32 {
        20
    }
    pub(super) fn deaf_after_seconds() -> i32 {
        60
    }
    pub(super) fn long_poll_timeout_seconds() -> i32 {
        30
    }
    pub(super) fn api_port() -> i32 {
        crate::names::pod::GATE_PORT
    }
    pub(super) fn metrics_port() -> i32 {
        crate::names::pod::HEALTH_PORT
    }
    pub(super) fn lease_database() -> String {
        "default".into()
    }
    pub(super) fn lease_duration_seconds() -> i32 {
        10
    }
    pub(super) fn fence_milliseconds() -> i32 {
        1000
    }
    pub(super) fn session_timeout_milliseconds() -> i32 {
        3000
    }
    pub(super) fn drain_timeout_seconds() -> i32 {
        20
    }
}
