//! Names that more than one program must agree on.

/// API group of everything that Pollux defines.
pub const GROUP: &str = "pollux.dev";
/// The version that this build serves.
pub const VERSION: &str = "v1alpha1";
/// The kind.
pub const KIND: &str = "TelegramBot";

/// Where the images are published. Together with the workspace's version this is the whole name.
pub const REGISTRY: &str = "ghcr.io/pollux-operator";
/// Image of the controller.
pub const CONTROLLER_IMAGE: &str = concat!("ghcr.io/pollux-operator/pollux-controller:", env!("CARGO_PKG_VERSION"));
/// Image of the agent.
pub const AGENT_IMAGE: &str = concat!("ghcr.io/pollux-operator/pollux-agent:", env!("CARGO_PKG_VERSION"));

/// Field manager of the objects that a bot consists of.
pub const MANAGER_CHILDREN: &str = "pollux-controller/children";
/// Field manager of the stored revisions.
pub const MANAGER_REVISIONS: &str = "pollux-controller/revisions";
/// Field manager of the status.
pub const MANAGER_STATUS: &str = "pollux-controller/status";

/// Labels and annotations.
pub mod label {
    /// Always [`NAME_VALUE`] on what belongs to a bot.
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The value of [`NAME`].
    pub const NAME_VALUE: &str = "telegrambot";
    /// The bot's name.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Always [`MANAGED_BY_VALUE`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "pollux";
    /// The bot's name, in Pollux's own namespace of labels: the selector.
    pub const BOT: &str = "pollux.dev/bot";
    /// Name of the revision (label of pods and of ControllerRevisions).
    pub const REVISION: &str = "pollux.dev/revision";
    /// Annotation of pods: name of the lease database that their agents use.
    pub const LEASE_DATABASE: &str = "pollux.dev/lease-database";
    /// Annotation of pods and revisions: the bot's image, as the user wrote it.
    pub const IMAGE: &str = "pollux.dev/image";
    /// Annotation of revisions: whether it passed its trial.
    pub const VERDICT: &str = "pollux.dev/verdict";
    /// Annotation of revisions: its migration is done.
    pub const MIGRATED: &str = "pollux.dev/migrated";
    /// Label of a migration's pods: the bot's name. They have none of the labels by which the bot's own pods are found.
    pub const MIGRATION_OF: &str = "pollux.dev/migration-of";
    /// Annotation of revisions: the requests about it that were answered.
    pub const ANSWERED: &str = "pollux.dev/answered";
}

/// Annotations by which people ask for something. The value is the name of a revision, so that an approval can never hit a newer
/// one; behind an `@` may be anything, to ask the same a second time. Each is answered once.
pub mod request {
    /// The revision on trial passes.
    pub const PROMOTE: &str = "pollux.dev/promote";
    /// The revision on trial does not pass.
    pub const ABORT: &str = "pollux.dev/abort";
    /// A revision that did not pass is tried again.
    pub const RETRY: &str = "pollux.dev/retry";
    /// The revision that runs, and had passed, is left for the one before.
    pub const UNDO: &str = "pollux.dev/undo";
    /// The value is the name of a pod, which is to lead.
    pub const HANDOVER: &str = "pollux.dev/handover";
    /// The value is a time, or anything else: another one makes new pods of the same choices.
    pub const RESTARTED_AT: &str = "pollux.dev/restarted-at";
}

/// The pod of a bot.
pub mod pod {
    /// The init container (restartPolicy Always) that holds the lease and serves the gate.
    pub const AGENT_CONTAINER: &str = "agent";
    /// The user's container.
    pub const BOT_CONTAINER: &str = "bot";

    /// emptyDir with the hook's binary, its socket and the agent's `alive` file.
    pub const SHARED_VOLUME: &str = "pollux-agent";
    /// Where [`SHARED_VOLUME`] is mounted.
    pub const SHARED_DIR: &str = "/run/pollux/agent";
    /// The binary that the bot container's preStop runs.
    pub const HOOK: &str = "/run/pollux/agent/pollux-agent";
    /// Secret volume with the bot's token.
    pub const TOKEN_VOLUME: &str = "pollux-token";
    /// Where [`TOKEN_VOLUME`] is mounted.
    pub const TOKEN_DIR: &str = "/run/pollux/token";
    /// The token's file.
    pub const TOKEN_FILE: &str = "/run/pollux/token/token";
    /// Secret volume with the lease database's URI; mounted into the agent only.
    pub const LEASE_VOLUME: &str = "pollux-lease";
    /// Where [`LEASE_VOLUME`] is mounted.
    pub const LEASE_DIR: &str = "/run/pollux/lease";
    /// The URI's file.
    pub const LEASE_FILE: &str = "/run/pollux/lease/uri";
    /// ConfigMap volume with an own certificate authority; mounted into the agent only.
    pub const CA_VOLUME: &str = "pollux-ca";
    /// Where [`CA_VOLUME`] is mounted.
    pub const CA_DIR: &str = "/run/pollux/ca";
    /// The authority's file.
    pub const CA_FILE: &str = "/run/pollux/ca/ca.crt";
    /// All of Pollux's volumes start like this.
    pub const VOLUME_PREFIX: &str = "pollux-";

    /// Port of the gate, on the pod's loopback, unless `spec.agent.apiPort` is another one.
    pub const GATE_PORT: i32 = 8081;
    /// Port of the agent's probes and metrics, unless `spec.agent.metricsPort` is another one.
    pub const HEALTH_PORT: i32 = 9464;
    /// What the bot uses instead of `https://api.telegram.org`.
    pub fn gate_url(port: i32) -> String {
        format!("http://127.0.0.1:{port}")
    }
    /// The variables that are set to [`gate_url`]: what the libraries' own documentation calls them.
    pub const API_URL_ENV: [&str; 3] = ["TELEGRAM_API_ROOT", "TELEGRAM_API_URL", "TELOXIDE_API_URL"];
    /// The variable that names the token's file.
    pub const TOKEN_FILE_ENV: &str = "TELEGRAM_BOT_TOKEN_FILE";
}

/// The Secret that agents read the lease database's URI from, unless `spec.lease.credentialsSecretRef` names another.
pub const LEASE_SECRET: &str = "pollux-lease";
/// Its key.
pub const LEASE_SECRET_KEY: &str = "uri";

/// How long the next leader may take to make its first poll, at most. Part of the grace period.
pub const TAKEOVER_TIMEOUT_SECONDS: i32 = 15;
/// What the kubelet and the agent need besides draining and takeover. Part of the grace period.
pub const GRACE_SLACK_SECONDS: i32 = 10;
