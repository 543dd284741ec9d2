//! Fifth step: makes it so. Touches clients; writes nothing that is so already.
//!
//! The order and its reasons: the *revision* first, because its name is in the template and its template must be known before
//! it runs; the Job of its *migration*, without which nothing comes; the *ServiceAccount*, without which no pod can be made; the *PodDisruptionBudget*, so that it is there when the
//! second pod is; the *settings row*, because who may lead must be written down before a pod of the new revision can ask; the
//! *Deployment*, which has to keep the old pods before the *leader is asked* to hand over to a new one; and old revisions last.

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use pollux_api::names::{MANAGER_CHILDREN, MANAGER_REVISIONS, label};
use pollux_api::words::Reason;
use serde_json::Value;

use crate::build::{Children, deployment};
use crate::cluster::{Child, Cluster, Error, Refusal};
use crate::leases::{Leases, Seen};
use crate::observe::{Observed, child_name};
use crate::plan::{HoldReason, Pace, Plan, RolloutDecision};
use crate::revision::Stored;
use crate::same;
use crate::validate::{Invalid, Target};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Applied {
    /// The Deployment as it is now.
    pub(crate) deployment: Option<Deployment>,
    /// A new revision was stored.
    pub(crate) revision_created: bool,
    /// The settings row could not be written.
    pub(crate) unreachable: Option<String>,
}

/// Asks the API server whether it would take the template of a revision that is new: the last part of validation, and the
/// only one that needs a client. What is known has been taken before.
pub(crate) async fn dry_run(
    cluster: &Cluster,
    observed: &Observed,
    target: Result<Target, Invalid>,
) -> Result<Result<Target, Invalid>, Error> {
    let Ok(Target::New { name: revision, image, template }) = &target else { return Ok(target) };
    let (namespace, name) = identity(observed);
    let stored = Stored::new(revision, 0, image, template.clone());
    let pace = Pace { min_ready_seconds: observed.bot.spec.min_ready_seconds, paused: false };
    let mut asked = deployment(observed, &stored, observed.bot.spec.replicas, pace);
    // Only the template is asked about; whether somebody wrote in between is found out by the real apply.
    if let Some(metadata) = asked["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    match cluster.dry_run::<Deployment>(MANAGER_CHILDREN, &namespace, &name, &asked).await {
        Ok(_) => Ok(target),
        Err(error) => invalid(&error).map(Err).ok_or(error),
    }
}

/// What the refusal of a dry run says of the template; `None` if it says nothing of it.
fn invalid(error: &Error) -> Option<Invalid> {
    let message = match error.is_invalid() {
        Some(said) => format!("the API server refuses the pod template: mend spec.podTemplate: {said}"),
        None => error.refusal().filter(|_| error.is_forbidden())?.message,
    };
    Some(Invalid { reason: Reason::PodTemplateInvalid, message, foreign: false })
}

/// Applies what differs. Also if that fails half-way, what came of it until then is there to be told.
pub(crate) async fn apply(
    cluster: &Cluster,
    leases: &Leases,
    observed: &Observed,
    plan: &Plan,
    children: Children,
) -> (Applied, Result<(), Error>) {
    let mut applied = Applied { deployment: observed.deployment.clone(), revision_created: false, unreachable: None };
    let result = async {
        let Children { revisions, migration, service_account, budget, deployment } = children;
        let (namespace, name) = identity(observed);
        let child = child_name(&name);

        for revision in &revisions {
            let object = revision["metadata"]["name"].as_str().unwrap_or_default();
            cluster.apply::<ControllerRevision>(MANAGER_REVISIONS, &namespace, object, revision).await?;
            applied.revision_created |= !observed.revisions.iter().any(|existing| existing.name_any() == object);
        }
        if let Some(job) = migration {
            cluster.create_json::<Job>(&namespace, &job).await?;
        }
        if let Some(wanted) = &service_account {
            ensure::<ServiceAccount>(cluster, &namespace, &child, wanted, observed.service_account.as_ref()).await?;
        }
        match (&budget, &observed.budget) {
            (Some(wanted), live) => {
                ensure::<PodDisruptionBudget>(cluster, &namespace, &child, wanted, live.as_ref()).await?;
            }
            (None, Some(live)) if deployment.is_some() => cluster.delete(live).await?,
            (None, _) => {}
        }

        applied.unreachable = settings(cluster, leases, observed, plan).await?;
        // Who may lead could not be written down: a new template has to wait, everything else goes on.
        let held = applied.unreachable.is_some() && matches!(plan.rollout, RolloutDecision::Roll { .. });
        if let Some(wanted) = deployment.filter(|_| !held) {
            let now = ensure::<Deployment>(cluster, &namespace, &name, &wanted, observed.deployment.as_ref()).await?;
            applied.deployment = Some(now);
        }

        if applied.unreachable.is_none() {
            applied.unreachable = ask(cluster, leases, observed, plan).await?;
        }

        for revision in &plan.prune {
            if let Some(object) =
                observed.revisions.iter().find(|object| object.labels().get(label::REVISION) == Some(revision))
            {
                cluster.delete(object).await?;
            }
        }
        Ok(())
    }
    .await;
    (applied, result)
}

/// Writes the settings row. Returns why it could not.
async fn settings(
    cluster: &Cluster,
    leases: &Leases,
    observed: &Observed,
    plan: &Plan,
) -> Result<Option<String>, Error> {
    let Some(setting) = &plan.setting else { return Ok(None) };
    match &observed.lease {
        Seen::Bot(_) => {
            // The row has no resource version: what a replica writes that leads no more would stay.
            let resource = &observed.resource;
            cluster.must_lead(|| format!("PUT settings of {resource}"))?;
            Ok(leases.put(&observed.bot.spec.lease.database, resource, setting).await.err())
        }
        Seen::Unreachable { error } => Ok(Some(error.clone())),
        Seen::Unknown { .. } => Ok(None),
    }
}

/// Asks the leader for a handover, unless it has been asked. Returns why it could not.
async fn ask(cluster: &Cluster, leases: &Leases, observed: &Observed, plan: &Plan) -> Result<Option<String>, Error> {
    let (Some(request), Seen::Bot(Some(view))) = (&plan.request, &observed.lease) else { return Ok(None) };
    if view.request.as_ref() == Some(request) {
        return Ok(None);
    }
    let resource = &observed.resource;
    cluster.must_lead(|| format!("PUT request of {resource}"))?;
    Ok(leases.ask(&observed.bot.spec.lease.database, resource, request).await.err())
}

/// Applies an object unless it is so already.
async fn ensure<K: Child>(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    wanted: &Value,
    live: Option<&K>,
) -> Result<K, Error> {
    if let Some(live) = live {
        let seen = serde_json::to_value(live).unwrap_or_default();
        if same::is_so(wanted, &seen) {
            return Ok(live.clone());
        }
    }
    cluster.apply(MANAGER_CHILDREN, namespace, name, wanted).await
}

fn identity(observed: &Observed) -> (String, String) {
    (observed.bot.namespace().unwrap_or_default(), observed.bot.name_any())
}

/// The plan, as it turned out.
pub(crate) fn outcome(plan: Plan, applied: &Applied) -> Plan {
    match (&plan.rollout, &applied.unreachable) {
        (RolloutDecision::Roll { .. }, Some(error)) => Plan {
            rollout: RolloutDecision::Hold { reason: HoldReason::DatabaseUnreachable { error: error.clone() } },
            ..plan
        },
        _ => plan,
    }
}

/// The plan that the API server refused, for the status. A manifest that cannot be applied, or a deletion, says more.
pub(crate) fn refused(plan: Plan, refusal: Refusal) -> Plan {
    match &plan.rollout {
        RolloutDecision::Hold { reason: HoldReason::Invalid(_) | HoldReason::Deleting } => plan,
        _ => Plan { rollout: RolloutDecision::Hold { reason: HoldReason::Refused(refusal) }, ..plan },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::answered;

    #[test]
    fn dry_run_that_a_policy_forbids_is_told_and_does_not_blame_the_template() {
        let said = "admission webhook \"validation.gatekeeper.sh\" denied the request: [owner] you must provide labels";
        let found = invalid(&answered(403, "Forbidden", said)).expect("told");
        assert_eq!((found.reason, found.foreign), (Reason::PodTemplateInvalid, false));
        assert!(found.message.contains(said) && found.message.contains("admission policy"), "{}", found.message);
        assert!(!found.message.contains("spec.podTemplate"), "{}", found.message);
    }

    #[test]
    fn dry_run_that_finds_no_answer_says_nothing_of_the_template() {
        for code in [401, 404, 409, 429, 503] {
            assert_eq!(invalid(&answered(code, "", "x")), None, "{code}");
        }
        assert!(invalid(&answered(422, "Invalid", "x")).expect("told").message.contains("spec.podTemplate"));
    }
}
