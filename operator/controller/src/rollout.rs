//! Lead first, delete after: a new revision leads on trial while the pods of the old one stand by. Pure.
//!
//! Kubernetes keeps the old pods of a Deployment until a new one has been ready for `minReadySeconds`. During a trial that is as
//! long as a handover and the bake may take ([`trial_seconds`]); it is a field of the Deployment and not of the template, so
//! changing it makes no pods. The new pod gets ready, the leader hands over to it, and it leads for `analysis.bakeSeconds`. If
//! it passes, `minReadySeconds` falls to what the user wants, and Kubernetes deletes mere standbys: one handover, however many
//! replicas. If it does not, the leader hands back to a pod that was warm all the time, and only then its template goes.
//!
//! What a trial came to is written on the revision ([`Verdict`]) before anything follows from it. How far it is can be seen,
//! but for since when: that is `status.rollout`, by the controller's own clock, and if it is lost the stage begins anew. Without
//! a controller Kubernetes goes on when the time is over, and the old leader's preStop hands over.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use pollux_api::TelegramBotSpec;
use pollux_api::names::request;
use pollux_api::words::{HandoverReason, OnFailure, RolloutStage, StrategyType};
use pollux_lease::{BotView, Candidate, Party};

use crate::diagnose::{self, is_over, is_ready, is_terminating, revision};
use crate::leases::Seen;
use crate::observe::Observed;
use crate::plan::is_complete;
use crate::reports;
use crate::revision::{Stored, Verdict};

/// How a revision on trial is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// No pod of it is ready yet.
    Surging,
    /// The lease database does not say who leads.
    Unseen,
    /// It is ready, and the leader is to hand over to this pod.
    HandingOver {
        /// The pod.
        to: String,
    },
    /// It leads.
    Baking {
        /// Until then.
        until: Timestamp,
    },
    /// There is nothing to compare it with, or nobody to lead before it: it passes when all its pods are there.
    Plain,
    /// It passed.
    Passed,
    /// It did not.
    Failed {
        /// Why.
        why: String,
    },
}

/// Who leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Led<'a> {
    /// The lease database does not say.
    Unknown,
    /// Nobody.
    Nobody,
    /// A pod of another resource or cluster.
    Elsewhere,
    /// This one.
    By(&'a Party),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its annotation.
    pub(crate) request: &'static str,
    /// And the value.
    pub(crate) value: String,
    /// What was done.
    pub(crate) result: String,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) observed: &'a Observed,
    pub(crate) stored: &'a [Stored],
    pub(crate) now: Timestamp,
}

/// So many refused calls are no reason yet.
const FEW_REFUSALS: u64 = 5;

/// For how long Kubernetes keeps the old pods during a trial: a handover and the bake, and what a reconcile needs.
pub(crate) fn trial_seconds(spec: &TelegramBotSpec) -> i32 {
    spec.handover.grace_period_seconds() + spec.analysis.bake_seconds
}

// === impl Scene ===

impl<'a> Scene<'a> {
    fn view(self) -> Option<&'a BotView> {
        match &self.observed.lease {
            Seen::Bot(view) => view.as_deref(),
            Seen::Unreachable { .. } | Seen::Unknown { .. } => None,
        }
    }

    pub(crate) fn led(self) -> Led<'a> {
        let Seen::Bot(view) = &self.observed.lease else { return Led::Unknown };
        let lease = view.as_ref().map(|view| &view.lease).filter(|lease| lease.fresh);
        match lease.and_then(|lease| lease.holder.as_ref()) {
            None => Led::Nobody,
            Some(holder) if holder.replica.resource == self.observed.resource => Led::By(holder),
            Some(_) => Led::Elsewhere,
        }
    }

    fn leads(self, name: &str) -> bool {
        matches!(self.led(), Led::By(holder) if holder.replica.revision == name)
    }

    /// Its pods that have not ended.
    fn pods(self, name: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.observed.pods.iter().filter(move |pod| !is_over(pod) && revision(pod) == name)
    }

    /// A pod of the revision that could lead at once.
    pub(crate) fn ready_pod(self, name: &'a str) -> Option<&'a Pod> {
        self.pods(name).find(|pod| is_ready(pod) && !is_terminating(pod))
    }

    /// What a rollout of `name` that fails comes back to.
    pub(crate) fn stable(self, name: &str) -> Option<&'a Stored> {
        let others = self.stored.iter().filter(|stored| stored.passed() && stored.name != name);
        others.max_by_key(|stored| stored.number)
    }

    /// Since when the newest rollout is at this stage, if it is.
    pub(crate) fn since(self, of: &Stored, stage: RolloutStage) -> Option<Timestamp> {
        let rollout = self.observed.bot.status.as_ref()?.rollout.as_ref()?;
        let same = rollout.revision == of.name && rollout.number == of.number && rollout.stage == stage;
        rollout.stage_time.as_ref().filter(|_| same).map(|time| time.0)
    }

    /// When its rollout began.
    fn began(self, of: &Stored) -> Option<Timestamp> {
        let rollout = self.observed.bot.status.as_ref()?.rollout.as_ref()?;
        let same = rollout.revision == of.name && rollout.number == of.number;
        rollout.start_time.as_ref().filter(|_| same).map(|time| time.0)
    }

    fn passed_since(self, of: &Stored, stage: RolloutStage, seconds: i32) -> bool {
        self.since(of, stage).is_some_and(|since| self.now.duration_since(since).as_secs() > seconds.into())
    }

    /// How a revision is doing that the Deployment has and that was not judged yet.
    pub(crate) fn trial(self, wanted: &'a Stored) -> Trial {
        let spec = &self.observed.bot.spec;
        let rolls = spec.strategy.kind == StrategyType::RollingUpdate && !spec.suspend && spec.replicas > 0;
        let watched = rolls && self.stable(&wanted.name).is_some();
        if !watched || matches!(self.led(), Led::Elsewhere) {
            let there = is_complete(self.observed, self.observed.deployment.as_ref(), &wanted.name);
            let serves = self.leads(&wanted.name) || matches!(self.led(), Led::Elsewhere);
            return if there && serves { Trial::Passed } else { Trial::Plain };
        }
        if let Some(why) = self.failure(wanted) {
            return Trial::Failed { why };
        }
        let ready = self.ready_pod(&wanted.name);
        match (self.led(), ready) {
            (Led::By(holder), _) if holder.replica.revision == wanted.name => self.bake(wanted),
            (_, None) => Trial::Surging,
            (Led::Unknown, Some(_)) => Trial::Unseen,
            (_, Some(pod)) => self.take_over(wanted, pod),
        }
    }

    /// A change of the leader begins it anew.
    fn bake(self, wanted: &Stored) -> Trial {
        let before = self.observed.bot.status.as_ref().and_then(|status| status.leader.as_ref());
        let epoch = self.view().map(|view| view.lease.epoch);
        let same = before.map(|leader| leader.epoch) == epoch;
        let since = self.since(wanted, RolloutStage::Baking).filter(|_| same).unwrap_or(self.now);
        let bake = Duration::from_secs(u64::try_from(self.observed.bot.spec.analysis.bake_seconds).unwrap_or_default());
        let until = since + bake;
        if self.now >= until { Trial::Passed } else { Trial::Baking { until } }
    }

    fn take_over(self, wanted: &Stored, pod: &Pod) -> Trial {
        let seconds = self.observed.bot.spec.handover.grace_period_seconds();
        let to = pod.name_any();
        if self.passed_since(wanted, RolloutStage::HandingOver, seconds) {
            return Trial::Failed { why: format!("pod {to} is ready, but did not come to lead within {seconds} s") };
        }
        Trial::HandingOver { to }
    }

    /// Why a revision on trial does not pass.
    fn failure(self, wanted: &'a Stored) -> Option<String> {
        let limit = self.observed.bot.spec.analysis.max_container_restarts;
        let restarted = self.pods(&wanted.name).find_map(|pod| diagnose::restarts(pod, limit));
        restarted
            .or_else(|| self.stuck(wanted))
            .or_else(|| self.deaf(wanted))
            .or_else(|| self.refused(wanted))
            .or_else(|| self.gave_back(wanted))
    }

    /// No pod got ready in time.
    fn stuck(self, wanted: &'a Stored) -> Option<String> {
        if self.ready_pod(&wanted.name).is_some() {
            return None;
        }
        let deployment = self.observed.deployment.as_ref()?;
        let said = diagnose::gave_up(deployment, self.began(wanted)?)?;
        let troubles = diagnose::troubles(self.observed, self.now);
        let trouble = troubles.into_iter().find(|trouble| trouble.revision == wanted.name);
        Some(trouble.map_or(said, |trouble| format!("{}: {}", trouble.reason, trouble.message)))
    }

    /// The leader, if the revision leads, with what it reports.
    fn leader_of(self, wanted: &Stored) -> Option<&'a Candidate> {
        let Led::By(holder) = self.led() else { return None };
        let of_leader = self.view()?.candidates.iter().find(|candidate| candidate.party.id == holder.id);
        of_leader.filter(|_| holder.replica.revision == wanted.name)
    }

    fn deaf(self, wanted: &Stored) -> Option<String> {
        let leader = self.leader_of(wanted).filter(|leader| reports::says(leader, "deaf") == Some(true))?;
        Some(format!("the bot in {} asks for no updates", leader.party.replica.pod))
    }

    /// Most of what it calls is refused.
    fn refused(self, wanted: &Stored) -> Option<String> {
        let limit = self.observed.bot.spec.analysis.max_api_error_percent;
        let leader = self.leader_of(wanted)?;
        let count = |what: &str| leader.report.get("calls")?.get(what)?.as_u64();
        let (made, failed) = (count("made")?, count("failed")?);
        let too_many = failed >= FEW_REFUSALS && failed * 100 > made * u64::try_from(limit).unwrap_or_default();
        too_many.then(|| {
            format!(
                "the Bot API server refused {failed} of {made} calls of {}, of which spec.analysis.maxApiErrorPercent allows {limit} %",
                leader.party.replica.pod
            )
        })
    }

    /// It led, and its bot was not there any more. (A pod that was deleted or a node that died says nothing of the revision.)
    fn gave_back(self, wanted: &Stored) -> Option<String> {
        self.since(wanted, RolloutStage::Baking)?;
        let handover = self.view()?.last_handover.as_ref()?;
        let from = handover.from.as_ref().filter(|from| from.replica.revision == wanted.name)?;
        let why = match handover.reason.as_str() {
            reason if reason == HandoverReason::BotGone.as_str() => "its bot's process ended",
            reason if reason == HandoverReason::BotDeaf.as_str() => "its bot asked for no updates any more",
            _ => return None,
        };
        Some(format!("{} gave the session back while it led on trial, because {why}", from.replica.pod))
    }

    /// The manifest's revision with its verdict, if there is one now.
    pub(crate) fn judge(self, wanted: &'a Stored, is_live: bool) -> Option<Stored> {
        let spec = &self.observed.bot.spec;
        if !is_live || wanted.verdict.is_some() || spec.paused || spec.suspend || spec.replicas == 0 {
            return None;
        }
        let verdict = match self.trial(wanted) {
            Trial::Passed => Verdict::Passed,
            Trial::Failed { why } => Verdict::Failed { why, waits: spec.on_failure == OnFailure::Pause },
            _ => return None,
        };
        Some(Stored { verdict: Some(verdict), ..wanted.clone() })
    }

    /// A request that was not answered yet and has something to act on: the manifest's revision as it is then, and what was done.
    pub(crate) fn answer(self, wanted: &Stored, is_live: bool) -> Option<(Stored, Answer)> {
        let number = wanted.number;
        let comes_back = self.stable(&wanted.name).is_some();
        let (open, waits) = match &wanted.verdict {
            None => (comes_back, false),
            Some(Verdict::Failed { waits, .. }) => (*waits, *waits),
            Some(Verdict::Passed) => (false, false),
        };
        let failed = |why: &str| Some(Verdict::Failed { why: why.to_owned(), waits: false });
        let newest = self.stored.iter().map(|stored| stored.number).max().unwrap_or_default();
        let found = [
            (request::PROMOTE, open && is_live, Some(Verdict::Passed), number, "passes"),
            (
                request::ABORT,
                open && is_live,
                failed(wanted.failed().filter(|_| waits).unwrap_or("somebody aborted it")),
                number,
                "does not pass",
            ),
            (request::UNDO, wanted.passed() && is_live && comes_back, failed("somebody undid it"), number, "is left"),
            (request::RETRY, wanted.failed().is_some(), None, newest + 1, "is tried again"),
        ];
        for (kind, fits, verdict, number, done) in found {
            let Some(value) = self.asked(kind, &wanted.name, wanted).filter(|_| fits) else { continue };
            let mut stored = Stored { verdict, number, ..wanted.clone() };
            stored.answered.insert(kind.to_owned(), value.clone());
            let result = format!("revision {number} {done}");
            return Some((stored, Answer { request: kind, value, result }));
        }
        None
    }

    /// A handover that somebody asked for, to one of our pods.
    pub(crate) fn directed(self, live: &Stored) -> Option<(Stored, Answer, String)> {
        let Led::By(leader) = self.led() else { return None };
        let pod = self.ready_pods().find_map(|pod| {
            let name = pod.name_any();
            Some((self.asked(request::HANDOVER, &name, live)?, name))
        });
        let (value, name) = pod?;
        // Whichever revision ran then.
        let answered = |stored: &Stored| stored.answered.get(request::HANDOVER) == Some(&value);
        if self.stored.iter().any(answered) {
            return None;
        }
        let mut stored = live.clone();
        stored.answered.insert(request::HANDOVER.to_owned(), value.clone());
        let result = match leader.replica.pod == name {
            true => format!("{name} leads already"),
            false => format!("{} is asked to hand over to {name}", leader.replica.pod),
        };
        Some((stored, Answer { request: request::HANDOVER, value, result }, name))
    }

    fn ready_pods(self) -> impl Iterator<Item = &'a Pod> {
        self.observed.pods.iter().filter(|pod| !is_over(pod) && is_ready(pod) && !is_terminating(pod))
    }

    /// The value of a request about `subject` that this revision did not answer yet.
    fn asked(self, kind: &str, subject: &str, by: &Stored) -> Option<String> {
        let value = self.observed.bot.annotations().get(kind)?;
        let about = value.split('@').next().unwrap_or_default();
        (about == subject && by.answered.get(kind) != Some(value)).then(|| value.clone())
    }

    /// The pod that a leader of revision `from` has to hand back to before its template may go. `None`: nobody, or it took too long.
    pub(crate) fn hand_back(self, target: &Stored, from: &Stored, to: &'a Stored) -> Option<&'a Pod> {
        let seconds = self.observed.bot.spec.handover.grace_period_seconds();
        if !self.leads(&from.name) || self.passed_since(target, RolloutStage::RollingBack, seconds) {
            return None;
        }
        self.ready_pod(&to.name)
    }
}
