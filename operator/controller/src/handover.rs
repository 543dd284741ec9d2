//! `status.lastHandover`: the newest entry of the log of handovers, with the reason that people want to read.
//!
//! An agent knows only that its pod ends. That this was a rollout shows in the revisions, and that the node was drained in the
//! pod's DisruptionTarget condition, as long as the pod is there: so a reason that was once found for an epoch stays.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use pollux_api::TelegramBotStatus;
use pollux_api::status::LastHandover;
use pollux_api::words::HandoverReason;
use pollux_lease::{BotView, Handover, Party};

use crate::revision::Stored;
use crate::status::{Facts, whole_seconds};

/// The last handover, if the lease database was heard.
pub(crate) fn last_handover(
    facts: &Facts<'_>,
    view: Option<&BotView>,
    before: &TelegramBotStatus,
) -> Option<LastHandover> {
    let handover = view?.last_handover.as_ref()?;
    let old = before.last_handover.as_ref().filter(|old| old.epoch == handover.epoch);
    let drain = handover.drain.as_ref();
    let found = reason(handover, facts.stored, &facts.observed.pods);
    let milliseconds = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Some(LastHandover {
        from: pod(handover.from.as_ref()),
        to: pod(handover.to.as_ref()),
        reason: match old.map(|old| old.reason) {
            Some(HandoverReason::NodeDrain) => HandoverReason::NodeDrain,
            _ => found,
        },
        epoch: handover.epoch,
        time: Some(Time(whole_seconds(handover.time))),
        duration_milliseconds: drain.map(|drain| milliseconds(drain.took)),
        drain_outcome: drain.map(|drain| drain.outcome.clone()).unwrap_or_default(),
        unacknowledged_updates: drain.map(|drain| drain.unacknowledged.into()),
        owed_updates: drain.map(|drain| drain.owed.into()),
        gap_milliseconds: handover.gap.map(milliseconds),
    })
}

fn pod(party: Option<&Party>) -> String {
    party.map(|party| party.replica.pod.clone()).unwrap_or_default()
}

fn reason(handover: &Handover, stored: &[Stored], pods: &[Pod]) -> HandoverReason {
    let said = HandoverReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == handover.reason)
        .unwrap_or(HandoverReason::Manual);
    // The controller asks for handovers as people do.
    let planned =
        [HandoverReason::PodDeleted, HandoverReason::Rollout, HandoverReason::Rollback, HandoverReason::Manual];
    if !planned.contains(&said) {
        return said;
    }
    let (Some(from), Some(to)) = (&handover.from, &handover.to) else { return said };
    let number =
        |party: &Party| stored.iter().find(|stored| stored.name == party.replica.revision).map(|stored| stored.number);
    if from.replica.revision != to.replica.revision {
        return match (number(from), number(to)) {
            (Some(from), Some(to)) if to < from => HandoverReason::Rollback,
            _ => HandoverReason::Rollout,
        };
    }
    let evicted = pods.iter().any(|pod| pod.uid().as_deref() == Some(from.replica.pod_uid.as_str()) && is_evicted(pod));
    if evicted { HandoverReason::NodeDrain } else { said }
}

/// Whether the pod goes because it was evicted: what a drain of its node does.
fn is_evicted(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| {
        c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("EvictionByEvictionAPI")
    })
}
