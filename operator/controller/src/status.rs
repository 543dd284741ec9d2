//! Last step: what is told. Pure: from what was seen, planned and applied, and from the status before, to the status now.
//!
//! Every condition is there from the first sight on (Unknown), carries the generation it was found for, and changes its time
//! only when its status changes. Messages hold no times and no counters that tick: an unchanged bot is an unchanged status.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use pollux_api::TelegramBotStatus;
use pollux_api::names::{label, request};
use pollux_api::status::{BotIdentity, KnownRevision, LastAction, Leader, Revision, Rollout};
use pollux_api::words::{ConditionType, Phase, Reason, RevisionState, RolloutStage};
use pollux_lease::BotView;

use crate::cluster::Refusal;
use crate::diagnose::{self, Heard, MORE_SESSIONS, Trouble, is_full, is_over, is_terminating};
use crate::handover::last_handover;
use crate::leases::Seen;
use crate::migration;
use crate::observe::Observed;
use crate::plan::{HoldReason, Plan, RolloutDecision, is_complete};
use crate::reports;
use crate::revision::{Stored, Verdict};
use crate::rollout::Trial;

/// So many revisions are shown.
const SHOWN_REVISIONS: usize = 16;

/// Everything that the status is made of.
pub(crate) struct Facts<'a> {
    pub(crate) observed: &'a Observed,
    pub(crate) plan: &'a Plan,
    /// The Deployment after the apply.
    pub(crate) deployment: Option<&'a Deployment>,
    /// The stored revisions, that of the plan included.
    pub(crate) stored: &'a [Stored],
    pub(crate) now: Timestamp,
}

/// A condition's content.
pub(crate) struct Finding {
    status: &'static str,
    reason: String,
    message: String,
}

/// What the facts say, before it is put into words.
pub(crate) struct Summary<'a> {
    suspended: bool,
    wanted: i32,
    complete: bool,
    troubles: Vec<Trouble>,
    pub(crate) view: Option<&'a BotView>,
    database_error: Option<&'a str>,
    ready_pods: i32,
    available: i32,
    replicas: i32,
    updated: i32,
}

// === impl Finding ===

impl Finding {
    pub(crate) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: "True", reason: reason.to_string(), message: message.into() }
    }

    pub(crate) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: "False", reason: reason.to_string(), message: message.into() }
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason: reason.to_string(), message: message.into() }
    }

    fn is(&self, status: &str) -> bool {
        self.status == status
    }
}

// === impl Summary ===

impl Summary<'_> {
    /// Whether the lease database answered: then agents that it does not know are not there.
    pub(crate) fn is_heard(&self, facts: &Facts<'_>) -> bool {
        self.database_error.is_none() && matches!(facts.observed.lease, Seen::Bot(_))
    }
}

/// The status of a bot.
pub(crate) fn status(facts: &Facts<'_>) -> TelegramBotStatus {
    let before = facts.observed.bot.status.clone().unwrap_or_default();
    let summary = summarize(facts);
    let leader = leader(facts, &summary, &before);
    let spec_valid = spec_valid(facts, &summary);
    let token = reports::token_accepted(facts, &summary, &before);
    let foreign = reports::foreign_poller(facts, &summary, &before);
    let elected = leader_elected(facts, &summary, leader.as_ref());
    let available = available(&summary, leader.as_ref(), &elected);
    let progressing = progressing(facts, &summary);
    let ready = ready(facts, &summary, &spec_valid, &token, &available, &progressing);
    let phase = phase(facts, &summary, &ready, &progressing, &spec_valid, &token);
    let message = message(phase, &[&spec_valid, &token, &progressing, &elected, &available, &ready, &foreign]);

    let update = facts.plan.target.as_ref().map(shown).or_else(|| before.update_revision.clone());
    let there = facts.plan.revision.as_ref().filter(|_| summary.complete && !summary.suspended);
    let current = there.map(shown).or_else(|| before.current_revision.clone());
    let leader_ready = leader.as_ref().is_some_and(|leader| {
        facts
            .observed
            .pods
            .iter()
            .any(|pod| pod.name_any() == leader.pod_name && !is_terminating(pod) && diagnose::is_ready(pod))
    });
    let conditions = [
        (ConditionType::Ready, ready),
        (ConditionType::Available, available),
        (ConditionType::LeaderElected, elected),
        (ConditionType::Progressing, progressing),
        (ConditionType::Migrated, migrated(facts)),
        (ConditionType::SpecValid, spec_valid),
        (ConditionType::TokenAccepted, token),
        (ConditionType::ForeignPoller, foreign),
    ];
    TelegramBotStatus {
        observed_generation: facts.observed.bot.metadata.generation,
        phase,
        message,
        ready: format!("{}/{}", summary.ready_pods, summary.wanted),
        bot: identity(&summary).or(before.bot.clone()),
        last_handover: last_handover(facts, summary.view, &before).or(before.last_handover.clone()),
        leader,
        replicas: summary.replicas,
        ready_replicas: summary.ready_pods,
        available_replicas: summary.available,
        updated_replicas: summary.updated,
        standby_replicas: summary.ready_pods - i32::from(leader_ready && summary.ready_pods > 0),
        selector: format!("{}={},{}={}", label::NAME, label::NAME_VALUE, label::BOT, facts.observed.bot.name_any()),
        current_revision: current,
        update_revision: update,
        rollout: rollout(facts, &summary, &before),
        revisions: revisions(facts),
        last_action: facts
            .plan
            .answer
            .as_ref()
            .map(|answer| LastAction {
                request: answer.request.to_owned(),
                value: answer.value.clone(),
                result: answer.result.clone(),
                time: Some(Time(whole_seconds(facts.now))),
            })
            .or_else(|| before.last_action.clone()),
        suppressed_calls: reports::suppressed_calls(facts, &summary, &before),
        conditions: conditions.into_iter().map(|(type_, finding)| condition(type_, finding, facts, &before)).collect(),
    }
}

fn summarize<'a>(facts: &Facts<'a>) -> Summary<'a> {
    let observed = facts.observed;
    let spec = &observed.bot.spec;
    let status = facts.deployment.and_then(|deployment| deployment.status.as_ref());
    let count = |count: Option<i32>| count.unwrap_or_default();
    let troubles = diagnose::troubles(observed, facts.now);
    let (view, database_error) = match &observed.lease {
        Seen::Bot(view) => (view.as_deref(), None),
        Seen::Unreachable { error } => (None, Some(error.as_str())),
        Seen::Unknown { .. } => (None, None),
    };
    let wanted_revision = facts.plan.revision.as_ref().map_or("", |revision| revision.name.as_str());
    // Kubernetes counts a pod that drains as gone, but it may still be the one that serves.
    let old_leader =
        view.and_then(|view| view.lease.holder.as_ref().filter(|_| view.lease.fresh)).is_some_and(|holder| {
            holder.replica.resource == facts.observed.resource
                && holder.replica.revision != wanted_revision
                && !spec.suspend
        });
    Summary {
        suspended: spec.suspend,
        wanted: facts.plan.replicas,
        complete: is_settled(&facts.plan.rollout)
            && is_complete(observed, facts.deployment, wanted_revision)
            && !old_leader,
        troubles,
        view,
        database_error,
        ready_pods: count(status.and_then(|s| s.ready_replicas)),
        available: count(status.and_then(|s| s.available_replicas)),
        replicas: count(status.and_then(|s| s.replicas)),
        updated: count(status.and_then(|s| s.updated_replicas)),
    }
}

fn condition(type_: ConditionType, finding: Finding, facts: &Facts<'_>, before: &TelegramBotStatus) -> Condition {
    let Finding { status, reason, message } = finding;
    let since = before.condition(type_).filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason,
        message: bounded(&message),
        observed_generation: facts.observed.bot.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(facts.now))),
    }
}

/// Kubernetes' times have seconds; a finer one would come back another and be written again.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(1024)].to_owned()
}

fn leader(facts: &Facts<'_>, summary: &Summary<'_>, before: &TelegramBotStatus) -> Option<Leader> {
    if summary.database_error.is_some() {
        // Not seen is not gone: the leader goes on until its lease ends, and the condition says that nobody knows.
        return before.leader.clone();
    }
    let lease = &summary.view?.lease;
    let holder =
        lease.holder.as_ref().filter(|holder| lease.fresh && holder.replica.resource == facts.observed.resource)?;
    Some(Leader {
        pod_name: holder.replica.pod.clone(),
        pod_uid: holder.replica.pod_uid.clone(),
        node_name: holder.replica.node.clone(),
        acquire_time: lease.since.map(|since| Time(whole_seconds(since))),
        epoch: lease.epoch,
        revision: holder.replica.revision.clone(),
    })
}

fn spec_valid(facts: &Facts<'_>, summary: &Summary<'_>) -> Finding {
    if let RolloutDecision::Hold { reason: HoldReason::Invalid(invalid) } = &facts.plan.rollout {
        return Finding::no(invalid.reason, &invalid.message);
    }
    match summary.troubles.iter().find(|trouble| trouble.missing_secret) {
        Some(trouble) => Finding::no(Reason::SecretMissing, &trouble.message),
        None => Finding::yes(Reason::Valid, ""),
    }
}

fn leader_elected(facts: &Facts<'_>, summary: &Summary<'_>, leader: Option<&Leader>) -> Finding {
    let database = &facts.observed.bot.spec.lease.database;
    if let Seen::Unknown { .. } = &facts.observed.lease {
        return Finding::unknown(Reason::UnknownDatabase, format!("no lease database is called {database:?}"));
    }
    if let Some(error) = summary.database_error {
        return Finding::unknown(
            Reason::DatabaseUnreachable,
            format!(
                "the operator cannot use the lease database {database:?} (Secret in leaseDatabases): {error}; pods lead until their leases end"
            ),
        );
    }
    if summary.suspended && leader.is_none() {
        return Finding::no(Reason::Suspended, "");
    }
    if let Some(leader) = leader {
        return Finding::yes(Reason::Acquired, format!("{} leads since epoch {}", leader.pod_name, leader.epoch));
    }
    let unseen = || {
        // The view is that of one bot: pods of a revision with another token are in another one.
        let wanted = facts.plan.revision.as_ref().filter(|_| summary.view.is_some());
        let pods = facts.observed.pods.iter().filter(|pod| diagnose::is_ready(pod) && !is_terminating(pod));
        let of_wanted = |pod: &Pod| wanted.is_none_or(|wanted| wanted.name == diagnose::revision(pod));
        let (pod, mend) =
            pods.filter(|pod| of_wanted(pod)).find_map(|pod| match diagnose::heard(facts.observed, pod) {
                Heard::No => {
                    Some((pod, format!("check the URI in its Secret, and kubectl logs {} -c agent", pod.name_any())))
                }
                Heard::NoSession(login) => Some((pod, format!("{}: {MORE_SESSIONS}", is_full(login)))),
                Heard::Yes | Heard::Unknown => None,
            })?;
        let pod = pod.name_any();
        Some(format!("pod {pod} runs, but its agent has not been seen in the lease database {database:?}: {mend}"))
    };
    let Some(view) = summary.view else {
        return Finding::no(Reason::NoCandidate, unseen().unwrap_or_else(|| "no agent has been seen yet".to_owned()));
    };
    match &view.lease.holder {
        Some(holder) if view.lease.fresh => {
            let other = &holder.replica.resource;
            let place = if other.cluster == facts.observed.resource.cluster {
                String::new()
            } else {
                format!(" in cluster {}", other.cluster)
            };
            Finding::yes(
                Reason::HeldElsewhere,
                format!("another TelegramBot has the same token and leads: {other}{place}"),
            )
        }
        Some(holder) => Finding::no(
            Reason::LeaseExpired,
            format!("{} stopped renewing; a ready pod takes over", holder.replica.pod),
        ),
        None => Finding::no(
            Reason::NoCandidate,
            unseen().unwrap_or_else(|| "no pod is ready to lead: its bot has not asked for updates yet".to_owned()),
        ),
    }
}

fn migrated(facts: &Facts<'_>) -> Finding {
    let Some(target) = &facts.plan.target else {
        return Finding::unknown(Reason::Unknown, "the manifest cannot be applied");
    };
    if facts.observed.bot.spec.migration.is_none() {
        return Finding::yes(Reason::NotRequired, "");
    }
    match target.failed() {
        _ if target.migrated => Finding::yes(Reason::Succeeded, ""),
        Some(why) => Finding::no(Reason::JobFailed, why),
        None => Finding::unknown(Reason::Migrating, format!("revision {} waits for its migration", target.number)),
    }
}

fn available(summary: &Summary<'_>, leader: Option<&Leader>, elected: &Finding) -> Finding {
    if elected.is("Unknown") {
        return Finding::unknown(Reason::DatabaseUnreachable, &elected.message);
    }
    if elected.is("False") {
        return if summary.suspended {
            Finding::no(Reason::Suspended, "")
        } else {
            Finding::no(Reason::NoLeader, &elected.message)
        };
    }
    if leader.is_none() {
        // Updates are received, but not by a bot of this resource.
        return Finding::yes(Reason::HeldElsewhere, &elected.message);
    }
    let candidate =
        leader.and_then(|leader| summary.view?.candidates.iter().find(|c| c.party.replica.pod_uid == leader.pod_uid));
    let reports = |what: &str| candidate.is_some_and(|candidate| reports::says(candidate, what) == Some(true));
    if reports("webhookActive") {
        return Finding::no(
            Reason::WebhookActive,
            "a webhook is set at Telegram, which sends all updates there and refuses polls, so this bot gets none: if another system still needs it, stop that one first; then have the bot call deleteWebhook when it starts, or call it yourself (without drop_pending_updates nothing is lost)",
        );
    }
    if reports("deaf") {
        let pod = candidate.map_or("", |c| &c.party.replica.pod);
        return Finding::no(
            Reason::LeaderDeaf,
            format!("the bot in {pod} asks for no updates: look at its logs with kubectl logs {pod} -c bot"),
        );
    }
    Finding::yes(Reason::LeaderPolling, "")
}

fn progressing(facts: &Facts<'_>, summary: &Summary<'_>) -> Finding {
    if let RolloutDecision::Hold { reason } = &facts.plan.rollout {
        match reason {
            HoldReason::Invalid(invalid) => return Finding::no(Reason::SpecInvalid, &invalid.message),
            HoldReason::DatabaseUnreachable { error } => {
                return Finding::no(
                    Reason::WaitingForDatabase,
                    format!("the rollout waits until the lease database answers: {error}"),
                );
            }
            HoldReason::Refused(Refusal { reason, message }) => {
                return Finding { status: "False", reason: reason.clone(), message: message.clone() };
            }
            HoldReason::OtherDatabase { database } => {
                return Finding::yes(
                    Reason::WaitingForOldPods,
                    format!("waits until no pod with a lease in the database {database:?} is left"),
                );
            }
            HoldReason::RolledBack { why } => {
                let target = facts.plan.target.as_ref();
                let (number, name) = target.map_or((0, ""), |target| (target.number, target.name.as_str()));
                let back = facts.plan.revision.as_ref().map_or(0, |revision| revision.number);
                let message = format!(
                    "revision {number} was rolled back: {why}; revision {back} is what runs: change the manifest, or try the same again with kubectl annotate telegrambot {} {}={name} --overwrite",
                    facts.observed.bot.name_any(),
                    request::RETRY,
                );
                return match summary.complete {
                    true => Finding::no(Reason::RolledBack, message),
                    false => Finding::yes(Reason::RollingBack, message),
                };
            }
            HoldReason::Failed { why } => return Finding::unknown(Reason::Paused, waits(facts, why)),
            HoldReason::Migrating => {
                let target = facts.plan.target.as_ref().expect("what migrates is known");
                let job = migration::job_name(&facts.observed.bot.name_any(), target);
                return Finding::yes(
                    Reason::Migrating,
                    format!("the migration of revision {} runs before its pods come: Job {job}", target.number),
                );
            }
            HoldReason::MigrationFailed { why } => {
                return Finding::no(
                    Reason::MigrationFailed,
                    format!(
                        "{why}; nothing is rolled out: mend it and change the manifest, or annotate {}",
                        request::RETRY
                    ),
                );
            }
            HoldReason::Paused => {
                return Finding::unknown(
                    Reason::Paused,
                    "spec.paused is true: set it to false, and the rollout goes on",
                );
            }
            HoldReason::Deleting => return Finding::yes(Reason::Draining, "the bot is being deleted"),
        }
    }
    let number = |stored: Option<&Stored>| stored.map_or(0, |stored| stored.number);
    match &facts.plan.rollout {
        RolloutDecision::Return { to, why } => {
            return Finding::yes(Reason::RollingBack, format!("the session goes back to {to}: {why}"));
        }
        RolloutDecision::Try { trial: Trial::Unseen } => {
            return Finding::no(
                Reason::WaitingForDatabase,
                "the new pod is ready; the rollout waits until the lease database says who leads",
            );
        }
        RolloutDecision::Try { trial: Trial::HandingOver { to } } => {
            return Finding::yes(
                Reason::HandingOver,
                format!("the leader hands over to {to}, of revision {}", number(facts.plan.target.as_ref())),
            );
        }
        RolloutDecision::Try { trial: Trial::Baking { .. } } => {
            return Finding::yes(
                Reason::Baking,
                format!(
                    "revision {} leads on trial for {} s, and the old pods stand by",
                    number(facts.plan.target.as_ref()),
                    facts.observed.bot.spec.analysis.bake_seconds
                ),
            );
        }
        _ => {}
    }
    if summary.complete {
        return Finding::yes(Reason::Complete, "");
    }
    if summary.suspended {
        return Finding::yes(Reason::Draining, "the pods hand over and go");
    }
    let wanted = facts.plan.revision.as_ref();
    let name = wanted.map_or("", |revision| revision.name.as_str());
    if let Some(trouble) = summary.troubles.iter().find(|t| t.revision == name).or(summary.troubles.first()) {
        return Finding { status: "False", reason: trouble.reason.clone(), message: trouble.message.clone() };
    }
    if let Some((reason, message)) = diagnose::deployment_failure(facts.deployment) {
        return Finding { status: "False", reason, message };
    }
    let number = wanted.map_or(0, |revision| revision.number);
    let new = facts.observed.pods.iter().filter(|pod| diagnose::revision(pod) == name && !is_terminating(pod));
    let all_new_ready = new.clone().count() > 0 && new.clone().all(diagnose::is_ready);
    let old = facts.observed.pods.iter().any(|pod| !is_over(pod) && diagnose::revision(pod) != name);
    let message =
        format!("revision {number}: {} of {} pods updated", summary.updated.min(summary.wanted), summary.wanted);
    Finding::yes(if all_new_ready && old { Reason::Draining } else { Reason::Surging }, message)
}

/// What a person can do about a revision that did not pass.
fn waits(facts: &Facts<'_>, why: &str) -> String {
    let target = facts.plan.target.as_ref();
    let (number, name) = target.map_or((0, ""), |target| (target.number, target.name.as_str()));
    format!(
        "revision {number} did not pass: {why}; its pods wait for you (spec.onFailure is Pause): kubectl annotate telegrambot {} {}={name}, or {}={name}, or {}={name}",
        facts.observed.bot.name_any(),
        request::PROMOTE,
        request::ABORT,
        request::RETRY,
    )
}

fn ready(
    facts: &Facts<'_>,
    summary: &Summary<'_>,
    spec_valid: &Finding,
    token: &Finding,
    available: &Finding,
    progressing: &Finding,
) -> Finding {
    if spec_valid.is("False") {
        return Finding::no(Reason::SpecInvalid, &spec_valid.message);
    }
    if token.is("False") {
        return Finding::no(Reason::TokenRejected, &token.message);
    }
    if summary.suspended {
        return Finding::no(Reason::Suspended, "spec.suspend is true: no pods");
    }
    if let RolloutDecision::Hold { reason } = &facts.plan.rollout {
        match reason {
            HoldReason::RolledBack { .. } => return Finding::no(Reason::RolledBack, &progressing.message),
            HoldReason::Migrating => return Finding::no(Reason::RollingOut, &progressing.message),
            HoldReason::MigrationFailed { .. } => {
                return Finding::no(Reason::MigrationFailed, &progressing.message);
            }
            HoldReason::Failed { .. } | HoldReason::Paused => {
                return Finding::no(Reason::Paused, &progressing.message);
            }
            _ => {}
        }
    }
    if !summary.complete {
        return match summary.troubles.first() {
            Some(trouble) if progressing.is("False") => Finding::no(Reason::PodNotReady, &trouble.message),
            _ => Finding::no(Reason::RollingOut, &progressing.message),
        };
    }
    match available.status {
        "True" => Finding::yes(Reason::Running, ""),
        "False" if summary.wanted == 0 => Finding::yes(Reason::Running, "spec.replicas is 0: no pods"),
        "False" => Finding::no(Reason::NoLeader, &available.message),
        _ => Finding::unknown(Reason::DatabaseUnreachable, &available.message),
    }
}

fn phase(
    facts: &Facts<'_>,
    summary: &Summary<'_>,
    ready: &Finding,
    progressing: &Finding,
    spec_valid: &Finding,
    token: &Finding,
) -> Phase {
    if facts.observed.bot.metadata.deletion_timestamp.is_some() {
        Phase::Terminating
    } else if spec_valid.is("False") || token.is("False") {
        Phase::Degraded
    } else if summary.suspended {
        Phase::Suspended
    } else if ready.reason == Reason::RolledBack.as_str() {
        Phase::RolledBack
    } else if progressing.reason == Reason::Migrating.as_str() {
        Phase::Migrating
    } else if ready.reason == Reason::Paused.as_str() {
        Phase::Paused
    } else if progressing.is("False") {
        Phase::Degraded
    } else if ready.is("True") {
        Phase::Running
    } else if !summary.complete
        && summary.ready_pods == 0
        && facts.observed.bot.status.as_ref().is_none_or(|s| s.current_revision.is_none())
    {
        Phase::Pending
    } else if !summary.complete {
        Phase::Progressing
    } else {
        Phase::Degraded
    }
}

/// The first finding that is not as it should be.
fn message(phase: Phase, findings: &[&Finding]) -> String {
    if phase == Phase::Running {
        // All is well, except that these pods never get an update, or not every one.
        let rival = [Reason::HeldElsewhere, Reason::ConflictsSeen].map(Reason::as_str);
        let said = findings.iter().find(|f| rival.contains(&f.reason.as_str()) && !f.message.is_empty());
        return said.map(|finding| bounded(&finding.message)).unwrap_or_default();
    }
    // Pods that wait for the lease database are told by it, and not by how many of them are updated.
    let waits = |f: &Finding| phase != Phase::Suspended && f.reason == Reason::DatabaseUnreachable.as_str();
    let bad = findings.iter().find(|f| (f.is("False") || waits(f)) && !f.message.is_empty());
    let open = findings.iter().find(|f| !f.message.is_empty() && !f.is("False"));
    bad.or(open).map(|finding| bounded(&finding.message)).unwrap_or_default()
}

fn shown(stored: &Stored) -> Revision {
    Revision { name: stored.name.clone(), number: stored.number, image: stored.image.clone() }
}

/// Whether the revision of the pods stays for now.
fn is_settled(rollout: &RolloutDecision) -> bool {
    match rollout {
        RolloutDecision::Try { trial } => *trial == Trial::Plain,
        RolloutDecision::Return { .. } => false,
        RolloutDecision::Hold { reason } => !matches!(reason, HoldReason::Failed { .. }),
        RolloutDecision::Create | RolloutDecision::Keep | RolloutDecision::Roll { .. } => true,
    }
}

/// How far the rollout of the manifest's revision is.
fn rollout(facts: &Facts<'_>, summary: &Summary<'_>, before: &TelegramBotStatus) -> Option<Rollout> {
    let same =
        |old: &&Rollout| facts.plan.target.as_ref().is_some_and(|t| t.name == old.revision && t.number == old.number);
    let old = before.rollout.as_ref().filter(same);
    let (Some(target), Some(stage)) = (&facts.plan.target, stage(facts, summary, old.map(|old| old.stage))) else {
        return before.rollout.clone();
    };
    let now = || Some(Time(whole_seconds(facts.now)));
    // The trial begins anew with another leader.
    let moved = stage == RolloutStage::Baking
        && summary.view.map(|view| view.lease.epoch) != before.leader.as_ref().map(|leader| leader.epoch);
    let at_stage = old.filter(|old| old.stage == stage && !moved);
    Some(Rollout {
        revision: target.name.clone(),
        number: target.number,
        stage,
        start_time: old.map_or_else(now, |old| old.start_time.clone()),
        stage_time: at_stage.map_or_else(now, |old| old.stage_time.clone()),
    })
}

/// `None`: what it was.
fn stage(facts: &Facts<'_>, summary: &Summary<'_>, before: Option<RolloutStage>) -> Option<RolloutStage> {
    Some(match &facts.plan.rollout {
        RolloutDecision::Create | RolloutDecision::Roll { .. } => RolloutStage::Surging,
        RolloutDecision::Try { trial: Trial::HandingOver { .. } } => RolloutStage::HandingOver,
        RolloutDecision::Try { trial: Trial::Baking { .. } } => RolloutStage::Baking,
        RolloutDecision::Try { trial: Trial::Unseen } => return None,
        RolloutDecision::Try { .. } => RolloutStage::Surging,
        RolloutDecision::Keep if summary.complete => RolloutStage::Complete,
        // Its pods come and go, but its rollout was over once.
        RolloutDecision::Keep if before == Some(RolloutStage::Complete) => RolloutStage::Complete,
        RolloutDecision::Keep => RolloutStage::ScalingDown,
        RolloutDecision::Return { .. } => RolloutStage::RollingBack,
        RolloutDecision::Hold { reason: HoldReason::RolledBack { .. } } if summary.complete => RolloutStage::RolledBack,
        RolloutDecision::Hold { reason: HoldReason::RolledBack { .. } } if before != Some(RolloutStage::RolledBack) => {
            RolloutStage::RollingBack
        }
        RolloutDecision::Hold { reason: HoldReason::Failed { .. } } => RolloutStage::Paused,
        RolloutDecision::Hold { reason: HoldReason::Migrating } => RolloutStage::Migrating,
        RolloutDecision::Hold { .. } => return None,
    })
}

/// The newest ones; the object must not grow without end.
fn revisions(facts: &Facts<'_>) -> Vec<KnownRevision> {
    let mut stored: Vec<_> = facts.stored.iter().collect();
    stored.sort_by_key(|stored| std::cmp::Reverse(stored.number));
    let stable = stored.iter().find(|stored| stored.passed()).map(|stored| stored.number);
    let target = facts.plan.target.as_ref().map(|target| target.name.as_str());
    let known = |stored: &Stored| KnownRevision {
        name: stored.name.clone(),
        number: stored.number,
        image: stored.image.clone(),
        state: match &stored.verdict {
            Some(Verdict::Failed { .. }) => RevisionState::RolledBack,
            Some(Verdict::Passed) if stable == Some(stored.number) => RevisionState::Stable,
            None if target == Some(stored.name.as_str()) => RevisionState::Updating,
            _ => RevisionState::Superseded,
        },
        creation_time: stored.created.clone(),
        message: stored.failed().map(bounded).unwrap_or_default(),
    };
    stored.into_iter().take(SHOWN_REVISIONS).map(known).collect()
}

fn identity(summary: &Summary<'_>) -> Option<BotIdentity> {
    let view = summary.view?;
    let username =
        view.candidates.iter().find_map(|candidate| candidate.report.get("username")?.as_str()).unwrap_or_default();
    Some(BotIdentity { id: view.bot.bot_id, username: username.to_owned() })
}
