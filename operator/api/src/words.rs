//! The vocabulary of conditions, reasons, phases and events. These words are API: people write alerts and scripts on them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Makes an enum of unit variants whose words are the variants' names. In a CRD it is a plain string with an `enum`: what
/// derives emit for documented variants (`oneOf`) and for options (a null among the values) is refused by API servers.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// Every word, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "enum": [$(stringify!($variant)),+]})
            }
        }
    };
}

words! {
    /// The phase: one word for people. Programs read conditions.
    #[derive(Default)]
    Phase {
        /// Nothing runs yet.
        #[default]
        Pending,
        /// The manifest's revision runs and somebody receives updates.
        Running,
        /// A rollout or a change of scale is under way.
        Progressing,
        /// The migration of a new revision runs.
        Migrating,
        /// Something is wrong; the message says what and how to mend it.
        Degraded,
        /// `spec.paused` is set, or a rollout waits for a person.
        Paused,
        /// The manifest's revision did not pass: the one before runs and serves.
        RolledBack,
        /// `spec.suspend` is set: no pods.
        Suspended,
        /// The resource is being deleted.
        Terminating,
    }
}

words! {
    /// Types of `status.conditions`.
    ConditionType {
        /// The manifest's revision runs and serves.
        Ready,
        /// Somebody receives updates now.
        Available,
        /// A lease holder is known and fresh.
        LeaderElected,
        /// A rollout moves, or there is none.
        Progressing,
        /// The migration of the manifest's revision is done, or there is none.
        Migrated,
        /// Checks that the schema cannot express passed.
        SpecValid,
        /// Telegram accepts the token.
        TokenAccepted,
        /// Somebody else polls with the token; `False` is what it should be.
        ForeignPoller,
    }
}

words! {
    /// Reasons of conditions. Reasons of a pod that cannot start are Kubernetes' own words and are not listed here.
    Reason {
        /// Nothing is known yet.
        Unknown,
        /// Ready: the manifest's revision runs and serves.
        Running,
        /// `spec.suspend` is set.
        Suspended,
        /// Ready: not yet, a rollout is under way.
        RollingOut,
        /// Ready, Available: nobody leads.
        NoLeader,
        /// Ready: the manifest cannot be applied.
        SpecInvalid,
        /// Ready: Telegram refuses the token.
        TokenRejected,
        /// Available: the leader polls.
        LeaderPolling,
        /// Available: the leader's bot asks for no updates.
        LeaderDeaf,
        /// Available: a webhook is set at Telegram, which then refuses polls.
        WebhookActive,
        /// LeaderElected: the lease is held.
        Acquired,
        /// LeaderElected: no agent is ready to lead.
        NoCandidate,
        /// LeaderElected: the holder did not renew in time.
        LeaseExpired,
        /// LeaderElected: the controller cannot reach the lease database, or cannot use it.
        DatabaseUnreachable,
        /// LeaderElected: another resource or cluster that has the same token leads.
        HeldElsewhere,
        /// Progressing: the new pod is on its way.
        Surging,
        /// Migrated: the Job succeeded.
        Succeeded,
        /// Migrated: there is no `spec.migration`.
        NotRequired,
        /// Migrated, Progressing: the Job runs.
        Migrating,
        /// Migrated: the Job failed.
        JobFailed,
        /// Progressing, Ready: the migration of the first revision failed, so nothing runs.
        MigrationFailed,
        /// Progressing: the new pod is ready, and the leader hands over to it.
        HandingOver,
        /// Progressing: the new revision leads on trial, the old one stands by.
        Baking,
        /// Progressing: the new revision did not pass, and the old one takes over again.
        RollingBack,
        /// Ready, Progressing: the new revision did not pass, and the old one runs.
        RolledBack,
        /// Progressing: `spec.paused` holds it, or the new revision did not pass and `spec.onFailure` is `Pause`.
        Paused,
        /// Progressing: the new pods are there, the old ones hand over and go.
        Draining,
        /// Progressing: done.
        Complete,
        /// Progressing: no progress for `spec.progressDeadlineSeconds`.
        DeadlineExceeded,
        /// Progressing: waits for the lease database before it rolls out.
        WaitingForDatabase,
        /// Progressing: pods that use another lease database must be gone first.
        WaitingForOldPods,
        /// Progressing: a pod does not get ready.
        PodNotReady,
        /// Progressing: an agent gets no session, because its database role has as many as its CONNECTION LIMIT allows.
        ConnectionLimit,
        /// SpecValid: yes.
        Valid,
        /// SpecValid: `spec.podTemplate` cannot be merged, overrides what it may not, or is refused by the API server.
        PodTemplateInvalid,
        /// SpecValid: a Secret or ConfigMap that the pods mount is missing.
        SecretMissing,
        /// SpecValid: `terminationGracePeriodSeconds` in the podTemplate is shorter than the handover may take.
        GracePeriodTooShort,
        /// SpecValid: a container wants a port of the agent.
        PortConflict,
        /// SpecValid: an object of the name that Pollux needs belongs to somebody else.
        NameConflict,
        /// SpecValid: `spec.lease.database` names a database that the operator was not installed with.
        UnknownDatabase,
        /// TokenAccepted: yes.
        Accepted,
        /// TokenAccepted: Telegram answers 401, or what the Secret holds now is not used.
        Unauthorized,
        /// TokenAccepted: the Secret holds the token of another bot now.
        TokenChangedIdentity,
        /// ForeignPoller: Telegram refused polls for the sake of somebody else's.
        ConflictsSeen,
        /// ForeignPoller: there is none.
        None,
    }
}

words! {
    /// Why the lease changed hands.
    HandoverReason {
        /// The first leader there is.
        Initial,
        /// From one revision to a newer one.
        Rollout,
        /// From one revision to an older one.
        Rollback,
        /// Somebody asked for it.
        Manual,
        /// The leader's pod was deleted or evicted.
        PodDeleted,
        /// The leader's node is being drained.
        NodeDrain,
        /// The leader's bot process ended.
        BotGone,
        /// The leader's bot stopped asking for updates.
        BotDeaf,
        /// The leader did not renew in time.
        LeaseExpired,
        /// The leader gave up by itself because it could not renew.
        Fenced,
        /// The agent came back in the same pod.
        AgentRestarted,
        /// Somebody took the lease from the leader.
        ForcedRelease,
    }
}

words! {
    /// Reasons of events on the TelegramBot.
    EventReason {
        /// A set of choices was seen for the first time.
        RevisionCreated,
        /// Pods of another revision are being made.
        RolloutStarted,
        /// All pods are of the manifest's revision.
        RolloutCompleted,
        /// A pod cannot start, or a rollout does not move.
        RolloutFailed,
        /// A new revision did not pass; the old one takes over again.
        RolledBack,
        /// The Job of a new revision began.
        MigrationStarted,
        /// It is done.
        MigrationSucceeded,
        /// It failed; nothing is rolled out.
        MigrationFailed,
        /// Another pod leads.
        LeaderChanged,
        /// Nobody leads any more.
        LeaderLost,
        /// The leader's bot asks for no updates.
        LeaderDeaf,
        /// A leader went before its bot had finished what it had.
        DrainTimedOut,
        /// Somebody else polls with the token.
        ForeignPollerDetected,
        /// A call of the bot was not passed on to Telegram, or not as it was made.
        CallSuppressed,
        /// `spec.suspend` was set.
        Suspended,
        /// `spec.suspend` was taken back.
        Resumed,
        /// Telegram refuses the token.
        TokenRejected,
        /// The controller cannot reach the lease database.
        LeaseDatabaseUnreachable,
        /// The manifest cannot be applied.
        SpecInvalid,
    }
}

words! {
    /// `spec.imagePullPolicy`.
    ImagePullPolicy {
        /// Ask the registry at every start.
        Always,
        /// Only when the node has no such image.
        IfNotPresent,
        /// Never ask a registry.
        Never,
    }
}

words! {
    /// `spec.strategy.type`.
    #[derive(Default)]
    StrategyType {
        /// One pod more, none less.
        #[default]
        RollingUpdate,
        /// First none, then all.
        Recreate,
    }
}

words! {
    /// `spec.onFailure`: what becomes of a revision that did not pass.
    #[derive(Default)]
    OnFailure {
        /// The old one comes back.
        #[default]
        Rollback,
        /// The old one leads, and a person decides.
        Pause,
    }
}

words! {
    /// `status.rollout.stage`.
    RolloutStage {
        /// The migration runs.
        Migrating,
        /// No pod of the new revision is ready yet.
        Surging,
        /// The leader hands over to the new pod.
        HandingOver,
        /// The new revision leads on trial, the pods of the old one stand by.
        Baking,
        /// It passed, and takes the place of the old pods.
        ScalingDown,
        /// It is there.
        Complete,
        /// It did not pass, and the old revision takes over again.
        RollingBack,
        /// The old revision is there again.
        RolledBack,
        /// A person has to decide.
        Paused,
    }
}

words! {
    /// `status.revisions[].state`.
    RevisionState {
        /// It passed: this is what a rollout that fails comes back to.
        Stable,
        /// It is being rolled out.
        Updating,
        /// It did not pass.
        RolledBack,
        /// Another one took its place.
        Superseded,
    }
}

words! {
    /// `spec.lease.failover`: how the end of a leader is found out.
    #[derive(Default)]
    LeaseFailover {
        /// It has been silent for the lease's duration.
        #[default]
        Ttl,
        /// Its database session has ended.
        Fast,
    }
}

words! {
    /// `spec.polling.adapter`: how the bots of several pods take turns.
    #[derive(Default)]
    Adapter {
        /// They all run, and ask their agents for updates.
        #[default]
        Proxy,
        /// Only the leader's runs.
        Process,
    }
}

words! {
    /// `spec.polling.delivery`: when Telegram is told that the bot has an update.
    #[derive(Default)]
    Delivery {
        /// As soon as the bot says so.
        #[default]
        Transparent,
        /// When it may be taken to have handled it.
        Settled,
    }
}

words! {
    /// `spec.polling.pendingUpdates`: what becomes of a bot's wish to drop its pending updates.
    #[derive(Default)]
    PendingUpdates {
        /// They are kept.
        #[default]
        Keep,
        /// They are dropped if nobody has led for a long time.
        ColdStart,
        /// The bot decides.
        PassThrough,
    }
}

words! {
    /// `spec.handover.ordering`: what a handover waits for.
    #[derive(Default)]
    Ordering {
        /// The bot has finished what it was given.
        #[default]
        Strict,
        /// The bot has acknowledged what it was given.
        Fast,
    }
}

/// `spec.agent.logLevel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may become one.
    Warn,
    /// And what changed.
    #[default]
    Info,
    /// And why.
    Debug,
    /// Everything. Tokens are never printed at any level.
    Trace,
}

impl LogLevel {
    /// As the agent's flag spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl JsonSchema for LogLevel {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LogLevel".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["error", "warn", "info", "debug", "trace"]})
    }
}
