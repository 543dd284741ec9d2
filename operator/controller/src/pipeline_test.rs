//! The pure middle of a reconcile, from what was observed to what is applied and told: each test is a hazard.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::jiff::Timestamp;
use pollux_api::words::{ConditionType, EventReason, HandoverReason, Phase, Reason};
use pollux_api::{TelegramBot, TelegramBotStatus};
use pollux_lease::{BotKey, BotView, Candidate, DrainReport, Handover, LeaseRow, Party, Replica, Resource};
use serde_json::{Value, json};

use crate::apply;
use crate::build::{Children, build};
use crate::cluster::tests::answered;
use crate::diagnose::EventsByPod;
use crate::events::between;
use crate::leases::Seen;
use crate::observe::Observed;
use crate::plan::{HoldReason, Plan, RolloutDecision, plan};
use crate::revision::{self, Stored};
use crate::status::{Facts, status};
use crate::validate::{Operator, validate};

mod database;
mod fields;
mod reports;
mod rollout;

const UID: &str = "b0c1";

fn bot(spec: Value) -> TelegramBot {
    let mut whole = json!({"image": "ghcr.io/acme/echo-bot:1.0.0", "tokenSecretRef": {"name": "echo-token"}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "pollux.dev/v1alpha1", "kind": "TelegramBot",
        "metadata": {"name": "echo", "namespace": "bots", "uid": UID, "generation": 3}, "spec": whole,
    }))
    .unwrap()
}

fn operator() -> Operator {
    Operator { cluster: "c-1".into(), agent_image: "ghcr.io/pollux-operator/pollux-agent:0.1.0".into() }
}

fn resource() -> Resource {
    Resource { cluster: "c-1".into(), namespace: "bots".into(), name: "echo".into() }
}

fn fresh(spec: Value) -> Observed {
    Observed {
        bot: bot(spec),
        resource: resource(),
        deployment: None,
        service_account: None,
        budget: None,
        revisions: Vec::new(),
        migrations: Vec::new(),
        migration_pods: Vec::new(),
        pods: Vec::new(),
        events: EventsByPod::new(),
        lease: Seen::Bot(None),
        full_logins: Vec::new(),
    }
}

fn stored(observed: &Observed) -> Vec<Stored> {
    observed.revisions.iter().filter_map(Stored::read).collect()
}

fn planned(observed: &Observed) -> Plan {
    let stored = stored(observed);
    plan(observed, &stored, validate(observed, &stored, &operator()), now())
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn told(observed: &Observed) -> TelegramBotStatus {
    told_of(observed, &planned(observed))
}

fn told_of(observed: &Observed, plan: &Plan) -> TelegramBotStatus {
    let known = plan.known(&stored(observed));
    status(&Facts { observed, plan, deployment: observed.deployment.as_ref(), stored: &known, now: now() })
}

/// What is stored after this plan was applied.
fn store(observed: &mut Observed, plan: &Plan) {
    for revision in build(observed, plan).revisions {
        observed.revisions.retain(|old| old.metadata.name.as_deref() != revision["metadata"]["name"].as_str());
        observed.revisions.push(serde_json::from_value(revision).unwrap());
    }
}

/// What the cluster looks like after this plan was applied and all pods became ready.
fn rolled_out(mut observed: Observed) -> Observed {
    let plan = planned(&observed);
    store(&mut observed, &plan);
    let mut deployment = build(&observed, &plan).deployment.unwrap();
    let replicas = plan.replicas;
    deployment["metadata"]["generation"] = json!(1);
    deployment["metadata"]["resourceVersion"] = json!("7");
    deployment["status"] = json!({"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas});
    observed.deployment = Some(serde_json::from_value(deployment).unwrap());
    let name = &plan.revision.as_ref().unwrap().name;
    observed.pods = (0..replicas).map(|i| pod(&format!("echo-{name}-{i}"), name, true)).collect();
    observed
}

fn pod(name: &str, revision: &str, ready: bool) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bots", "uid": format!("uid-{name}"), "labels": {"pollux.dev/bot": "echo", "pollux.dev/revision": revision}, "annotations": {"pollux.dev/lease-database": "default"}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
    }))
    .unwrap()
}

fn party(pod: &str, revision: &str) -> Party {
    Party {
        id: format!("id-{pod}"),
        replica: Replica {
            resource: resource(),
            pod: pod.into(),
            pod_uid: format!("uid-{pod}"),
            node: "node-1".into(),
            revision: revision.into(),
        },
    }
}

fn led_by(pod: &str, revision: &str, epoch: i64) -> BotView {
    let since = Timestamp::from_second(1_799_999_000).unwrap();
    BotView {
        bot: BotKey { bot_id: 42, server: "https://api.telegram.org".into() },
        lease: LeaseRow {
            epoch,
            renew_seq: 9,
            ttl: Duration::from_secs(10),
            holder: Some(party(pod, revision)),
            since: Some(since),
            fresh: true,
            expires_at: None,
            handover_expected: false,
        },
        candidates: vec![Candidate {
            party: party(pod, revision),
            ready: true,
            leaving: false,
            beat_age: Duration::from_millis(100),
            report: json!({"tokenAccepted": true, "username": "EchoBot"}),
        }],
        last_handover: Some(Handover {
            epoch,
            time: since,
            from: None,
            to: Some(party(pod, revision)),
            reason: "Initial".into(),
            evidence: "free".into(),
            drain: None,
            gap: None,
        }),
        setting: None,
        request: None,
    }
}

fn running(spec: Value) -> Observed {
    let mut observed = rolled_out(fresh(spec));
    let revision = planned(&observed).revision.unwrap().name;
    let view = led_by(&format!("echo-{revision}-0"), &revision, 1);
    observed.lease = Seen::Bot(Some(Box::new(view)));
    // It passed, because it is there and there is nothing to compare it with.
    let plan = planned(&observed);
    store(&mut observed, &plan);
    observed
}

fn reason(status: &TelegramBotStatus, type_: ConditionType) -> (String, String) {
    let condition = status.condition(type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn smallest_manifest_as_it_is_applied() {
    let observed = fresh(json!({}));
    let plan = planned(&observed);
    assert_eq!(plan.rollout, RolloutDecision::Create);
    let Children { revisions, migration: _, service_account, budget, deployment } = build(&observed, &plan);
    assert_eq!(budget, None, "one pod: a budget would block every drain or allow everything");
    insta::assert_yaml_snapshot!("smallest_deployment", deployment);
    insta::assert_yaml_snapshot!("smallest_service_account", service_account);
    assert_eq!(revisions[0]["revision"], 1);
}

#[test]
fn every_field_as_it_is_applied() {
    let observed = fresh(json!({
        "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "registry"}], "command": ["bot"], "args": ["--fast"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "envFrom": [{"configMapRef": {"name": "c"}}], "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
        "serviceAccountName": "me", "replicas": 2, "minReadySeconds": 1, "progressDeadlineSeconds": 100,
        "podTemplate": {"metadata": {"labels": {"team": "a"}}, "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "bot", "env": [{"name": "C", "value": "3"}]}]}},
        "tokenSecretRef": {"name": "t", "key": "k"}, "botApi": {"url": "https://bot-api:8443", "caConfigMapRef": {"name": "ca", "key": "root.pem"}},
        "lease": {"database": "default", "credentialsSecretRef": {"name": "pg-app", "key": "uri2"}}, "handover": {"drainTimeoutSeconds": 5},
        "agent": {"image": "agent:1", "resources": {"limits": {"cpu": "1"}}, "logLevel": "debug"},
    }));
    let children = build(&observed, &planned(&observed));
    assert_eq!(children.service_account, None, "the user brought one");
    insta::assert_yaml_snapshot!("full_deployment", children.deployment);
    insta::assert_yaml_snapshot!("budget", children.budget);
}

#[test]
fn upgrade_of_the_operator_changes_no_pod() {
    let observed = running(json!({}));
    let newer = Operator { agent_image: "ghcr.io/pollux-operator/pollux-agent:9.9.9".into(), ..operator() };
    let stored = stored(&observed);
    let plan = plan(&observed, &stored, validate(&observed, &stored, &newer), now());
    assert_eq!(plan.rollout, RolloutDecision::Keep);
    let wanted = build(&observed, &plan).deployment.unwrap();
    assert!(crate::same::is_so(&wanted, &serde_json::to_value(&observed.deployment).unwrap()), "nothing is written");
}

#[test]
fn healthy_bot_costs_no_write() {
    let mut observed = running(json!({"replicas": 2}));
    let first = told(&observed);
    observed.bot.status = Some(first.clone());
    let plan = planned(&observed);
    assert_eq!((plan.store.len(), plan.prune.len()), (0, 0));
    assert_eq!(told(&observed), first);
    assert_eq!(between(&first, &told(&observed), false), []);
}

#[test]
fn healthy_bot_is_told_as_such() {
    let told = told(&running(json!({"replicas": 2})));
    assert_eq!((told.phase, told.message.as_str(), told.ready.as_str()), (Phase::Running, "", "2/2"));
    assert_eq!((told.replicas, told.standby_replicas, told.updated_replicas), (2, 1, 2));
    assert_eq!(told.bot.as_ref().map(|bot| (bot.id, bot.username.as_str())), Some((42, "EchoBot")));
    assert_eq!(told.leader.as_ref().map(|leader| (leader.epoch, leader.node_name.as_str())), Some((1, "node-1")));
    assert_eq!(told.current_revision, told.update_revision);
    for type_ in ConditionType::ALL {
        let well = if *type_ == ConditionType::ForeignPoller { "False" } else { "True" };
        assert_eq!(reason(&told, *type_).0, well, "{type_}: {:?}", told.condition(*type_));
    }
}

#[test]
fn new_revision_is_preferred_and_the_old_one_may_still_lead() {
    let old = running(json!({}));
    let before = planned(&old).revision.unwrap().name;
    let mut observed = Observed { bot: bot(json!({"image": "ghcr.io/acme/echo-bot:2.0.0"})), ..old };
    let plan = planned(&observed);
    assert_eq!(plan.rollout, RolloutDecision::Roll { from: before.clone() });
    let new = plan.revision.clone().unwrap();
    assert_eq!(new.number, 2);
    assert_eq!(plan.setting.unwrap().eligible, Some(vec![new.name.clone(), before.clone()]));

    // Pods of both are there: nothing changes.
    let old_pods = observed.pods.clone();
    observed = rolled_out(observed);
    observed.pods.extend(old_pods);
    assert_eq!(planned(&observed).setting.unwrap().eligible, Some(vec![new.name.clone(), before]));
    assert_eq!(reason(&told(&observed), ConditionType::Progressing), ("True".into(), "HandingOver".into()));

    // The last old pod is gone.
    observed.pods.retain(|pod| crate::diagnose::revision(pod) == new.name);
    assert_eq!(planned(&observed).setting.unwrap().eligible, Some(vec![new.name]));
}

#[test]
fn rollout_waits_for_the_lease_database_and_scaling_does_not() {
    let mut observed = running(json!({}));
    let live = planned(&observed).revision.unwrap();
    observed.lease = Seen::Unreachable { error: "connection refused".into() };
    observed.bot = bot(json!({"image": "two", "replicas": 3}));
    let plan = planned(&observed);
    assert_eq!(
        plan.rollout,
        RolloutDecision::Hold { reason: HoldReason::DatabaseUnreachable { error: "connection refused".into() } }
    );
    assert_eq!(plan.revision.as_ref(), Some(&live));
    let deployment = build(&observed, &plan).deployment.unwrap();
    assert_eq!((&deployment["spec"]["replicas"], &deployment["spec"]["template"]), (&json!(3), &live.template));
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::LeaderElected), ("Unknown".into(), "DatabaseUnreachable".into()));
    assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "WaitingForDatabase".into()));
    assert!(told.message.contains("connection refused"), "{}", told.message);
}

#[test]
fn pods_that_wait_for_a_silent_database_are_told_by_it() {
    let mut observed = rolled_out(fresh(json!({})));
    observed.lease = Seen::Unreachable { error: "connection refused".into() };
    observed.deployment.as_mut().unwrap().status.as_mut().unwrap().available_replicas = Some(0);
    observed.pods[0] = pod("echo-0", &planned(&observed).revision.unwrap().name, false);
    assert!(told(&observed).message.contains("connection refused"), "{}", told(&observed).message);
}

#[test]
fn first_pods_do_not_wait_for_the_lease_database() {
    let mut observed = fresh(json!({}));
    observed.lease = Seen::Unreachable { error: "connection refused".into() };
    assert_eq!(planned(&observed).rollout, RolloutDecision::Create);
}

#[test]
fn invalid_template_leaves_the_old_pods_and_can_still_be_suspended() {
    let mut observed = running(json!({}));
    let live = planned(&observed).revision.unwrap();
    observed.bot = bot(json!({"podTemplate": {"spec": {"hostNetwork": true}}}));
    let plan = planned(&observed);
    assert!(
        matches!(&plan.rollout, RolloutDecision::Hold { reason: HoldReason::Invalid(invalid) } if invalid.reason == Reason::PodTemplateInvalid)
    );
    assert_eq!(build(&observed, &plan).deployment.unwrap()["spec"]["template"], live.template);
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::SpecValid), ("False".into(), "PodTemplateInvalid".into()));
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert!(told.message.contains("hostNetwork"), "{}", told.message);

    observed.bot = bot(json!({"podTemplate": {"spec": {"hostNetwork": true}}, "suspend": true}));
    assert_eq!(build(&observed, &planned(&observed)).deployment.unwrap()["spec"]["replicas"], 0);
}

#[test]
fn deployment_of_somebody_else_is_not_touched() {
    let mut observed = fresh(json!({}));
    observed.deployment = Some(serde_json::from_value::<Deployment>(json!({"metadata": {"name": "echo"}})).unwrap());
    let plan = planned(&observed);
    assert_eq!(
        build(&observed, &plan),
        Children { revisions: Vec::new(), migration: None, service_account: None, budget: None, deployment: None }
    );
    assert_eq!(plan.setting, None);
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::SpecValid), ("False".into(), "NameConflict".into()));
    assert!(told.message.contains("give the TelegramBot another name"), "{}", told.message);
}

#[test]
fn unknown_database_names_those_that_there_are() {
    let mut observed = fresh(json!({"lease": {"database": "eu"}}));
    observed.lease = Seen::Unknown { known: vec!["default".into(), "us".into()] };
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::SpecValid), ("False".into(), "UnknownDatabase".into()));
    assert!(told.message.contains("default, us"), "{}", told.message);
}

#[test]
fn pods_of_another_database_are_gone_before_new_ones_come() {
    let mut observed = running(json!({}));
    observed.bot = bot(json!({"lease": {"database": "other"}}));
    assert_eq!(
        planned(&observed).rollout,
        RolloutDecision::Hold { reason: HoldReason::OtherDatabase { database: "default".into() } }
    );
    observed.pods.clear();
    assert!(matches!(planned(&observed).rollout, RolloutDecision::Roll { .. }));
}

#[test]
fn bad_image_is_named_while_the_old_pod_leads() {
    let old = running(json!({}));
    let observed = Observed { bot: bot(json!({"image": "nope:1"})), ..old };
    let plan = planned(&observed);
    let name = plan.revision.clone().unwrap().name;
    let old_pods = observed.pods.clone();
    let mut observed = rolled_out(observed);
    observed.deployment.as_mut().unwrap().status = serde_json::from_value(json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1})).unwrap();
    let stuck = serde_json::from_value(json!({
        "metadata": {"name": "echo-new", "namespace": "bots", "labels": {"pollux.dev/revision": name}},
        "status": {"phase": "Pending", "containerStatuses": [{"name": "bot", "image": "nope:1", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"nope:1\""}}}]},
    }))
    .unwrap();
    observed.pods = old_pods;
    observed.pods.push(stuck);
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "ImagePullBackOff".into()));
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert_eq!(told.phase, Phase::Degraded);
    assert!(told.message.contains("nope:1") && told.message.contains("check the image's name"), "{}", told.message);
}

#[test]
fn rejected_token_of_the_new_revision_counts_although_the_old_one_is_accepted() {
    let mut observed = running(json!({}));
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    let revision = view.candidates[0].party.replica.revision.clone();
    view.candidates[0].party.replica.revision = "older".into();
    view.candidates.push(Candidate {
        party: party("echo-new", &revision),
        ready: false,
        leaving: false,
        beat_age: Duration::from_secs(1),
        report: json!({"tokenAccepted": false, "tokenError": "Unauthorized"}),
    });
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::TokenAccepted), ("False".into(), "Unauthorized".into()));
    assert_eq!(reason(&told, ConditionType::Ready), ("False".into(), "TokenRejected".into()));
    assert!(told.message.contains("echo-token") && told.message.contains("@BotFather"), "{}", told.message);
}

#[test]
fn refusal_by_the_api_server_is_told_and_the_old_pods_serve_on() {
    let mut observed = running(json!({}));
    observed.bot.status = Some(told(&observed));
    observed.bot = TelegramBot { status: observed.bot.status.clone(), ..bot(json!({"image": "two"})) };
    let said = "deployments.apps \"echo\" is forbidden: exceeded quota: pods";
    let refusal = answered(403, "Forbidden", said).refusal().unwrap();
    let plan = apply::refused(planned(&observed), refusal);
    let told = told_of(&observed, &plan);
    assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "Forbidden".into()));
    assert_eq!(reason(&told, ConditionType::SpecValid), ("True".into(), "Valid".into()));
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert_eq!(told.phase, Phase::Degraded);
    assert!(told.message.contains(said) && told.message.contains("RBAC"), "{}", told.message);
    let events = between(observed.bot.status.as_ref().unwrap(), &told, false);
    assert!(events.iter().any(|event| event.reason == EventReason::RolloutFailed), "{events:?}");
}

/// Nobody leads, and of two pods that are ready the lease database knows only the first one's agent.
fn one_of_two_unseen() -> Observed {
    let mut observed = running(json!({"replicas": 2}));
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.lease.holder = None;
    view.lease.fresh = false;
    observed
}

#[test]
fn ready_pod_whose_agent_never_reached_the_database_is_not_blamed_on_the_bot() {
    let observed = one_of_two_unseen();
    let unseen = observed.pods[1].metadata.name.clone().unwrap();
    let elected = told(&observed).condition(ConditionType::LeaderElected).unwrap().clone();
    assert_eq!((elected.status.as_str(), elected.reason.as_str()), ("False", "NoCandidate"));
    assert!(elected.message.contains(&unseen) && elected.message.contains("check the URI"), "{}", elected.message);

    let mut known = one_of_two_unseen();
    known.pods.pop();
    assert!(told(&known).message.contains("has not asked for updates"), "the database knows its agent");
}

#[test]
fn unready_pod_whose_agent_never_reached_the_database_is_not_blamed_on_the_bot() {
    let mut observed = running(json!({"replicas": 2}));
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [{
        "name": "bot", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]});
    for pod in &mut observed.pods {
        pod.status = serde_json::from_value(status.clone()).unwrap();
    }
    observed.deployment.as_mut().unwrap().status.as_mut().unwrap().available_replicas = Some(0);
    let first = observed.pods.remove(0);
    let message = told(&observed).message;
    assert!(message.contains("check the URI") && !message.contains("TELEGRAM_API_ROOT"), "{message}");
    observed.pods = vec![first];
    let message = told(&observed).message;
    assert!(message.contains("TELEGRAM_API_ROOT") && !message.contains("check the URI"), "{message}");
}

#[test]
fn second_bot_with_the_token_says_that_it_gets_no_updates() {
    let mut observed = running(json!({}));
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.lease.holder.as_mut().unwrap().replica.resource.name = "other".into();
    let told = told(&observed);
    assert_eq!(told.phase, Phase::Running);
    assert!(told.message.contains("another TelegramBot has the same token"), "{}", told.message);
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "HeldElsewhere".into()));
}

#[test]
fn silent_leader_is_told_as_lost() {
    let mut observed = running(json!({}));
    let before = told(&observed);
    observed.bot.status = Some(before.clone());
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.lease.fresh = false;
    let now = told(&observed);
    assert_eq!(now.leader, None);
    assert_eq!(reason(&now, ConditionType::LeaderElected), ("False".into(), "LeaseExpired".into()));
    assert_eq!(reason(&now, ConditionType::Available), ("False".into(), "NoLeader".into()));
    assert_eq!(between(&before, &now, false).iter().map(|h| h.reason).collect::<Vec<_>>(), [EventReason::LeaderLost]);
}

#[test]
fn handover_between_revisions_is_a_rollout_and_back_a_rollback() {
    let mut observed = running(json!({}));
    let first = planned(&observed).revision.unwrap().name;
    observed = rolled_out(Observed { bot: bot(json!({"image": "two"})), ..observed });
    let second = planned(&observed).revision.unwrap().name;
    let handover = |from: &str, to: &str| Handover {
        epoch: 2,
        time: Timestamp::from_second(1_799_999_500).unwrap(),
        from: Some(party("a", from)),
        to: Some(party("b", to)),
        reason: "PodDeleted".into(),
        evidence: "handover".into(),
        drain: Some(DrainReport {
            took: Duration::from_millis(120),
            outcome: "complete".into(),
            ..DrainReport::default()
        }),
        gap: Some(Duration::from_millis(38)),
    };
    for (from, to, expected) in [
        (&first, &second, HandoverReason::Rollout),
        (&second, &first, HandoverReason::Rollback),
        (&second, &second, HandoverReason::PodDeleted),
    ] {
        let mut view = led_by("b", to, 2);
        view.last_handover = Some(handover(from, to));
        observed.lease = Seen::Bot(Some(Box::new(view)));
        let told = told(&observed).last_handover.unwrap();
        assert_eq!((told.reason, told.gap_milliseconds, told.duration_milliseconds), (expected, Some(38), Some(120)));
    }
}

#[test]
fn events_of_a_rollout_are_said_once() {
    let mut observed = running(json!({}));
    observed.bot.status = Some(told(&observed));
    let before = observed.bot.status.clone().unwrap();
    observed.bot = TelegramBot { status: Some(before.clone()), ..bot(json!({"image": "two"})) };
    let started = told(&observed);
    let reasons = |from: &TelegramBotStatus, to: &TelegramBotStatus, created| {
        between(from, to, created).iter().map(|h| h.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&before, &started, true), [EventReason::RevisionCreated, EventReason::RolloutStarted]);
    assert_eq!(reasons(&started, &started, false), []);
}

#[test]
fn rollout_is_not_over_while_the_draining_pod_leads() {
    let mut observed = running(json!({}));
    observed.bot.status = Some(told(&observed));
    observed = rolled_out(Observed { bot: bot(json!({"image": "two"})), ..observed });
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::Ready), ("False".into(), "RollingOut".into()));
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert_ne!(told.current_revision, told.update_revision);
}

#[test]
fn suspended_bot_has_no_pods_and_keeps_the_rest() {
    let observed = running(json!({"replicas": 2}));
    let observed =
        rolled_out(Observed { bot: bot(json!({"replicas": 2, "suspend": true})), lease: Seen::Bot(None), ..observed });
    let plan = planned(&observed);
    assert_eq!((plan.replicas, plan.budget, plan.rollout), (0, false, RolloutDecision::Keep));
    let told = told(&observed);
    assert_eq!((told.phase, told.ready.as_str()), (Phase::Suspended, "0/0"));
    assert_eq!(reason(&told, ConditionType::Ready), ("False".into(), "Suspended".into()));
}

#[test]
fn old_revisions_are_pruned_but_never_one_in_use() {
    let mut observed = running(json!({}));
    for number in 0..15 {
        let stored = Stored::new(&format!("old{number}"), number - 20, "i", json!({}));
        let object: ControllerRevision = serde_json::from_value(json!({
            "metadata": {"name": revision::object_name("echo", &stored.name), "labels": {"pollux.dev/revision": stored.name}}, "revision": stored.number, "data": stored.data(),
        }))
        .unwrap();
        observed.revisions.push(object);
    }
    observed.pods.push(pod("echo-straggler", "old0", true));
    let prune = planned(&observed).prune;
    assert_eq!(prune, ["old4", "old3", "old2", "old1"]);
}
