//! Events on the TelegramBot: what a person should have heard of, once. Derived from the status before and the status now,
//! so that they are as level-based as the status and a reconcile that is repeated says nothing twice.
//!
//! Written one by one and not through kube's recorder: it folds events of one reason into the first one's text, and the text
//! (from whom to whom, with which gap) is what matters here.

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use pollux_api::status::KnownRevision;
use pollux_api::words::{ConditionType, EventReason, HandoverReason, Phase, RevisionState};
use pollux_api::{TelegramBot, TelegramBotStatus};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) reason: EventReason,
    pub(crate) note: String,
}

// === impl Happened ===

impl Happened {
    fn new(reason: EventReason, note: impl Into<String>) -> Self {
        Self { reason, note: note.into() }
    }

    /// Normal or Warning.
    pub(crate) fn type_(&self) -> &'static str {
        match self.reason {
            EventReason::RevisionCreated
            | EventReason::RolloutStarted
            | EventReason::RolloutCompleted
            | EventReason::LeaderChanged
            | EventReason::MigrationStarted
            | EventReason::MigrationSucceeded
            | EventReason::Suspended
            | EventReason::Resumed => "Normal",
            EventReason::RolloutFailed
            | EventReason::RolledBack
            | EventReason::MigrationFailed
            | EventReason::LeaderLost
            | EventReason::LeaderDeaf
            | EventReason::DrainTimedOut
            | EventReason::ForeignPollerDetected
            | EventReason::CallSuppressed
            | EventReason::TokenRejected
            | EventReason::LeaseDatabaseUnreachable
            | EventReason::SpecInvalid => "Warning",
        }
    }

    /// As the API server wants it.
    pub(crate) fn event(&self, bot: &TelegramBot, instance: &str, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                namespace: bot.namespace(),
                name: Some(format!("{}.{:x}{:x}", bot.name_any(), now.as_nanosecond(), self.reason as u8)),
                ..ObjectMeta::default()
            },
            action: Some("Reconciling".into()),
            event_time: Some(MicroTime(now)),
            note: Some(self.note[..self.note.floor_char_boundary(1000)].to_owned()),
            reason: Some(self.reason.to_string()),
            regarding: Some(bot.object_ref(&())),
            reporting_controller: Some("pollux.dev/controller".into()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(self.type_().into()),
            ..Event::default()
        }
    }
}

/// What happened between two statuses.
pub(crate) fn between(before: &TelegramBotStatus, now: &TelegramBotStatus, revision_created: bool) -> Vec<Happened> {
    let mut happened = Vec::new();
    if let Some(update) = &now.update_revision {
        if revision_created {
            happened.push(Happened::new(
                EventReason::RevisionCreated,
                format!("revision {} ({}): {}", update.number, update.name, update.image),
            ));
        }
        let from = before.update_revision.as_ref().filter(|from| from.name != update.name);
        if let Some(from) = from {
            happened.push(Happened::new(
                EventReason::RolloutStarted,
                format!("from revision {} to {}: {}", from.number, update.number, update.image),
            ));
        }
        if now.current_revision.as_ref() == Some(update) && before.current_revision.as_ref() != Some(update) {
            happened.push(Happened::new(
                EventReason::RolloutCompleted,
                format!("all pods have revision {}: {}", update.number, update.image),
            ));
        }
    }
    let rejected = |status: &TelegramBotStatus, revision: &KnownRevision| {
        let found = status.revisions.iter().find(|r| (&r.name, r.number) == (&revision.name, revision.number));
        found.is_some_and(|found| found.state == RevisionState::RolledBack)
    };
    for revision in now.revisions.iter().filter(|revision| rejected(now, revision) && !rejected(before, revision)) {
        let note = format!("revision {} did not pass: {}", revision.number, revision.message);
        happened.push(Happened::new(EventReason::RolledBack, note));
    }
    leadership(before, now, &mut happened);
    handover(before, now, &mut happened);
    let became = |type_: ConditionType, status: &str| {
        let now = now.condition(type_).filter(|c| c.status == status)?;
        let before = before.condition(type_);
        before.is_none_or(|before| before.status != status || before.reason != now.reason).then_some(now)
    };
    let deaf = became(ConditionType::Available, "False").filter(|found| found.reason == "LeaderDeaf");
    if let Some(found) = deaf {
        happened.push(Happened::new(EventReason::LeaderDeaf, &found.message));
    }
    if let Some(found) = became(ConditionType::ForeignPoller, "True") {
        happened.push(Happened::new(EventReason::ForeignPollerDetected, &found.message));
    }
    for method in now.suppressed_calls.iter().filter(|method| !before.suppressed_calls.contains(method)) {
        happened.push(Happened::new(EventReason::CallSuppressed, suppressed(method)));
    }
    if let Some(found) = became(ConditionType::Migrated, "Unknown").filter(|found| found.reason == "Migrating") {
        happened.push(Happened::new(EventReason::MigrationStarted, &found.message));
    }
    let waited = before.condition(ConditionType::Migrated).is_some_and(|before| before.reason == "Migrating");
    if became(ConditionType::Migrated, "True").is_some() && waited {
        happened.push(Happened::new(EventReason::MigrationSucceeded, "the pods of the new revision come now"));
    }
    if let Some(found) = became(ConditionType::Migrated, "False") {
        happened.push(Happened::new(EventReason::MigrationFailed, &found.message));
    }
    if let Some(found) = became(ConditionType::SpecValid, "False") {
        happened.push(Happened::new(EventReason::SpecInvalid, format!("{}: {}", found.reason, found.message)));
    }
    if let Some(found) = became(ConditionType::TokenAccepted, "False") {
        happened.push(Happened::new(EventReason::TokenRejected, &found.message));
    }
    if let Some(found) =
        became(ConditionType::LeaderElected, "Unknown").filter(|found| found.reason == "DatabaseUnreachable")
    {
        happened.push(Happened::new(EventReason::LeaseDatabaseUnreachable, &found.message));
    }
    let token_refused = now.condition(ConditionType::TokenAccepted).is_some_and(|c| c.status == "False");
    // What the manifest, the token or the database is to blame for has been said above.
    let blamed = |reason: &str| {
        matches!(reason, "SpecInvalid" | "WaitingForDatabase" | "RolledBack" | "MigrationFailed")
            || !now.is_true(ConditionType::SpecValid)
            || token_refused
    };
    if let Some(found) = became(ConditionType::Progressing, "False").filter(|found| !blamed(&found.reason)) {
        happened.push(Happened::new(EventReason::RolloutFailed, format!("{}: {}", found.reason, found.message)));
    }
    match (wants_pods(before), wants_pods(now)) {
        (Some(true), Some(false)) => {
            happened.push(Happened::new(EventReason::Suspended, "no pods are wanted any more"))
        }
        (Some(false), Some(true)) => happened.push(Happened::new(EventReason::Resumed, "pods are wanted again")),
        _ => {}
    }
    happened
}

/// Whether pods were wanted, as `ready` shows it; `None` before anything was told.
fn wants_pods(status: &TelegramBotStatus) -> Option<bool> {
    status.ready.split_once('/').map(|(_, wanted)| wanted != "0")
}

fn leadership(before: &TelegramBotStatus, now: &TelegramBotStatus, happened: &mut Vec<Happened>) {
    match (&before.leader, &now.leader) {
        (Some(old), None) if wants_pods(now) == Some(true) && now.phase != Phase::Terminating => {
            let why = now.condition(ConditionType::LeaderElected).map(|c| c.message.clone()).unwrap_or_default();
            happened.push(Happened::new(EventReason::LeaderLost, format!("{} leads no more: {why}", old.pod_name)));
        }
        (old, Some(new)) if old.as_ref().is_none_or(|old| old.epoch != new.epoch) => {
            let handover = now.last_handover.as_ref().filter(|handover| handover.epoch == new.epoch);
            let from = handover
                .map(|h| h.from.as_str())
                .filter(|from| !from.is_empty())
                .map(|from| format!(" from {from}"))
                .unwrap_or_default();
            let reason = handover.map(|handover| format!(", {}", handover.reason)).unwrap_or_default();
            let gap = handover
                .and_then(|handover| handover.gap_milliseconds)
                .map(|gap| format!(", gap {gap} ms"))
                .unwrap_or_default();
            happened.push(Happened::new(
                EventReason::LeaderChanged,
                format!("to {}{from} (epoch {}{reason}{gap})", new.pod_name, new.epoch),
            ));
        }
        _ => {}
    }
}

/// R33: what a drain that took too long leaves. And a bot that was deaf while another one was ready: its pod led for too short a
/// time after that to be found in the conditions.
fn handover(before: &TelegramBotStatus, now: &TelegramBotStatus, happened: &mut Vec<Happened>) {
    let Some(handover) = &now.last_handover else { return };
    if before.last_handover.as_ref().is_none_or(|old| old.epoch == handover.epoch) {
        return;
    }
    let from = &handover.from;
    if handover.drain_outcome == "timed_out" {
        let count = |updates: Option<i64>| updates.unwrap_or_default();
        let note = format!(
            "{from} went before its bot had finished: {} updates may be repeated, and the bot was probably still working on {}: if that is what its handlers take, raise spec.handover.drainTimeoutSeconds",
            count(handover.unacknowledged_updates),
            count(handover.owed_updates)
        );
        happened.push(Happened::new(EventReason::DrainTimedOut, note));
    }
    let told = before.condition(ConditionType::Available).is_some_and(|c| c.reason == "LeaderDeaf");
    if handover.reason == HandoverReason::BotDeaf && !told {
        let note = format!(
            "the bot in {from} asked for no updates, and {} leads now: kubectl logs {from} -c bot",
            handover.to
        );
        happened.push(Happened::new(EventReason::LeaderDeaf, note));
    }
}

/// What a call would have done, and how to get it all the same.
fn suppressed(method: &str) -> String {
    match method {
        "getUpdates" | "deleteWebhook" => format!(
            "the bot asked ({method}) to drop its pending updates; they are kept, because each new pod would lose messages otherwise: if that is what you want, see spec.polling.pendingUpdates"
        ),
        "setWebhook" => "the bot wants to set a webhook, which would end polling: have it poll (getUpdates) when it runs under Pollux".to_owned(),
        "logOut" => "the bot wants to log out of the Bot API server, which would lock it out for ten minutes: call logOut yourself, while the bot is suspended".to_owned(),
        other => format!("the bot's call of {other} was not passed on"),
    }
}
