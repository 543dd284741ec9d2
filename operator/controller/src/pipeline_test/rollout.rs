//! Lead first, delete after: each step of a trial, and what may go wrong at it.

use pollux_api::words::{RevisionState, RolloutStage};
use pollux_lease::{Handover, Request};

use super::*;
use crate::plan::Pace;
use crate::revision::Verdict;
use crate::rollout::Trial;

/// A bot whose old revision passed and leads, and time.
struct Stage {
    observed: Observed,
    now: Timestamp,
    old: String,
}

impl Stage {
    fn new(spec: Value) -> Self {
        let observed = running(spec);
        let old = planned(&observed).revision.unwrap().name;
        let mut stage = Self { observed, now: now(), old };
        stage.step();
        stage
    }

    fn plan(&self) -> Plan {
        let stored = stored(&self.observed);
        plan(&self.observed, &stored, validate(&self.observed, &stored, &operator()), self.now)
    }

    /// One reconcile; Kubernetes does nothing.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        store(&mut self.observed, &plan);
        if let Some(mut wanted) = build(&self.observed, &plan).deployment {
            let before = self.observed.deployment.as_ref();
            wanted["status"] = json!(before.and_then(|deployment| deployment.status.clone()));
            wanted["metadata"]["generation"] = json!(before.and_then(|deployment| deployment.metadata.generation));
            self.observed.deployment = Some(serde_json::from_value(wanted).unwrap());
        }
        let known = plan.known(&stored(&self.observed));
        let deployment = self.observed.deployment.as_ref();
        let facts = Facts { observed: &self.observed, plan: &plan, deployment, stored: &known, now: self.now };
        self.observed.bot.status = Some(status(&facts));
        plan
    }

    fn passes(&mut self, seconds: i64) {
        self.now = Timestamp::from_second(self.now.as_second() + seconds).unwrap();
    }

    /// The user changes the manifest.
    fn change(&mut self, spec: Value) {
        let status = self.observed.bot.status.clone();
        let annotations = self.observed.bot.metadata.annotations.clone();
        self.observed.bot = bot(spec);
        self.observed.bot.status = status;
        self.observed.bot.metadata.annotations = annotations;
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.observed.bot.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
    }

    /// Kubernetes makes a pod of the template.
    fn surges(&mut self, ready: bool) -> String {
        let revision = crate::plan::live_revision(self.observed.deployment.as_ref().unwrap()).unwrap();
        let name = format!("echo-{revision}-{}", self.observed.pods.len());
        self.observed.pods.push(pod(&name, &revision, ready));
        self.counted();
        name
    }

    fn gone(&mut self, name: &str) {
        self.observed.pods.retain(|pod| pod.metadata.name.as_deref() != Some(name));
        self.counted();
    }

    /// As the Deployment's controller counts them.
    fn counted(&mut self) {
        let live = crate::plan::live_revision(self.observed.deployment.as_ref().unwrap()).unwrap();
        let pods = &self.observed.pods;
        let updated = pods.iter().filter(|pod| crate::diagnose::revision(pod) == live).count();
        let ready = pods.iter().filter(|pod| crate::diagnose::is_ready(pod)).count();
        self.observed.deployment.as_mut().unwrap().status = serde_json::from_value(json!({
            "observedGeneration": 1, "replicas": pods.len(), "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready,
        }))
        .unwrap();
    }

    fn leads(&mut self, pod: &str, epoch: i64) {
        let revision = self.observed.pods.iter().find(|p| p.metadata.name.as_deref() == Some(pod)).unwrap();
        let revision = crate::diagnose::revision(revision).to_owned();
        self.observed.lease = Seen::Bot(Some(Box::new(led_by(pod, &revision, epoch))));
    }

    fn restarts(&mut self, pod: &str, count: i32) {
        let pod = self.observed.pods.iter_mut().find(|p| p.metadata.name.as_deref() == Some(pod)).unwrap();
        pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([{
            "name": "bot", "image": "two", "imageID": "", "ready": true, "restartCount": count,
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }]))
        .unwrap();
    }

    /// Kubernetes says that there is no progress.
    fn gives_up(&mut self, at: i64) -> Plan {
        let status = self.observed.deployment.as_mut().unwrap().status.as_mut().unwrap();
        status.conditions = serde_json::from_value(json!([{
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "x",
            "lastUpdateTime": Timestamp::from_second(at).unwrap().to_string(),
        }]))
        .unwrap();
        self.step()
    }

    fn status(&self) -> &TelegramBotStatus {
        self.observed.bot.status.as_ref().unwrap()
    }

    fn progressing(&self) -> (String, String) {
        reason(self.status(), ConditionType::Progressing)
    }

    fn state(&self, revision: &str) -> RevisionState {
        self.status().revisions.iter().find(|known| known.name == revision).unwrap().state
    }

    /// Until the new revision leads on trial: its pod.
    fn on_trial(&mut self) -> String {
        self.change(json!({"image": "two"}));
        self.step();
        let new = self.surges(true);
        self.step();
        self.leads(&new, 2);
        assert!(matches!(self.step().rollout, RolloutDecision::Try { trial: Trial::Baking { .. } }));
        new
    }
}

fn steady(plan: &Plan) -> bool {
    plan.pace == Pace { min_ready_seconds: 5, paused: false }
}

/// drain 20 s, takeover 15 s, slack 10 s, bake 30 s.
fn on_trial(plan: &Plan) -> bool {
    plan.pace == Pace { min_ready_seconds: 75, paused: false }
}

#[test]
fn a_new_revision_leads_before_an_old_pod_goes() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.change(json!({"image": "two"}));
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && on_trial(&plan), "{plan:?}");
    let new_revision = plan.revision.unwrap().name;
    assert_eq!(plan.request, None, "there is no pod yet");

    let new = stage.surges(false);
    let plan = stage.step();
    assert_eq!((&plan.rollout, &plan.request), (&RolloutDecision::Try { trial: Trial::Surging }, &None));

    stage.gone(&new);
    let new = stage.surges(true);
    let plan = stage.step();
    assert_eq!(plan.rollout, RolloutDecision::Try { trial: Trial::HandingOver { to: new.clone() } });
    assert_eq!(plan.request, Some(Request { id: format!("1.{new}"), to_pod: new.clone() }));
    assert!(on_trial(&plan), "the old pod has to stay");
    assert_eq!(plan.setting.unwrap().eligible, Some(vec![new_revision.clone(), stage.old.clone()]));

    stage.passes(2);
    stage.leads(&new, 2);
    let until = Timestamp::from_second(stage.now.as_second() + 30).unwrap();
    let plan = stage.step();
    assert_eq!((&plan.rollout, &plan.request), (&RolloutDecision::Try { trial: Trial::Baking { until } }, &None));
    assert_eq!(stage.status().rollout.as_ref().unwrap().stage, RolloutStage::Baking);
    stage.passes(29);
    assert_eq!(stage.step().rollout, RolloutDecision::Try { trial: Trial::Baking { until } }, "not yet");

    stage.passes(1);
    let plan = stage.step();
    assert!(plan.rollout == RolloutDecision::Keep && steady(&plan), "{plan:?}");
    assert_eq!(plan.store[0].verdict, Some(Verdict::Passed));
    assert_eq!(
        (stage.state(&new_revision), stage.state(&stage.old)),
        (RevisionState::Stable, RevisionState::Superseded)
    );
    assert_eq!(stage.status().rollout.as_ref().unwrap().stage, RolloutStage::ScalingDown);
    stage.gone(&old_pod);
    assert!(stage.step().store.is_empty());
    assert_eq!(
        (stage.status().phase, stage.status().rollout.as_ref().unwrap().stage),
        (Phase::Running, RolloutStage::Complete)
    );
}

#[test]
fn a_revision_that_restarts_on_trial_hands_back_before_its_pod_goes() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    let before = stage.observed.deployment.clone().unwrap();
    let new = stage.on_trial();
    stage.restarts(&new, 1);
    let plan = stage.step();
    let RolloutDecision::Return { to, why } = &plan.rollout else { panic!("{:?}", plan.rollout) };
    assert!(*to == old_pod && why.contains("1 restarts of container bot") && why.contains("OOMKilled"), "{why}");
    assert_eq!(plan.request.as_ref().unwrap().to_pod, old_pod);
    assert_eq!(plan.setting.as_ref().unwrap().eligible, Some(vec![stage.old.clone()]), "it may not lead again");
    assert!(plan.revision.as_ref().unwrap().name != stage.old && on_trial(&plan), "its pod has to drain first");
    assert_eq!(stage.progressing(), ("True".into(), "RollingBack".into()));

    stage.leads(&old_pod, 3);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert_eq!(plan.revision.as_ref().unwrap().number, 1, "it was never replaced");
    let after = stage.observed.deployment.clone().unwrap();
    assert_eq!(after.spec, before.spec, "as it was, so Kubernetes deletes the new pod and makes none");

    stage.gone(&new);
    stage.step();
    let status = stage.status();
    assert_eq!((status.phase, status.ready.as_str()), (Phase::RolledBack, "1/1"));
    assert_eq!(reason(status, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert_eq!(reason(status, ConditionType::Ready), ("False".into(), "RolledBack".into()));
    assert!(status.message.contains("OOMKilled") && status.message.contains("pollux.dev/retry"), "{}", status.message);
    assert_eq!(status.update_revision.as_ref().unwrap().number, 2);
    assert_eq!(status.current_revision.as_ref().unwrap().number, 1);
}

#[test]
fn a_revision_that_did_not_pass_is_not_tried_again_until_somebody_asks() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    let new = stage.on_trial();
    stage.restarts(&new, 1);
    stage.step();
    stage.leads(&old_pod, 3);
    stage.step();
    stage.gone(&new);
    stage.step();
    for _ in 0..3 {
        let plan = stage.step();
        assert!(matches!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::RolledBack { .. } }), "{plan:?}");
        assert!(plan.store.is_empty() && steady(&plan));
    }
    let rejected = stage.status().update_revision.clone().unwrap().name;
    stage.annotate("pollux.dev/retry", "another");
    assert!(matches!(stage.step().rollout, RolloutDecision::Hold { .. }), "that is not its name");
    stage.annotate("pollux.dev/retry", &rejected);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && on_trial(&plan), "{plan:?}");
    assert_eq!(plan.revision.unwrap().number, 3);

    let new = stage.surges(true);
    stage.step();
    stage.restarts(&new, 1);
    stage.step();
    stage.step();
    assert!(
        matches!(stage.step().rollout, RolloutDecision::Hold { reason: HoldReason::RolledBack { .. } }),
        "a request is answered once"
    );
    stage.annotate("pollux.dev/retry", &format!("{rejected}@2"));
    assert!(matches!(stage.step().rollout, RolloutDecision::Roll { .. }), "and another time when it is asked anew");
}

#[test]
fn a_revision_that_never_gets_ready_goes_without_a_handover() {
    let mut stage = Stage::new(json!({}));
    stage.change(json!({"image": "two"}));
    stage.step();
    let new = stage.surges(false);
    stage.step();
    let now = now().as_second();
    let plan = stage.gives_up(now - 60);
    assert_eq!(plan.rollout, RolloutDecision::Try { trial: Trial::Surging }, "that was said of an earlier one");
    let plan = stage.gives_up(now + 60);
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert_eq!((plan.revision.unwrap().name, plan.request), (stage.old.clone(), None));
    stage.gone(&new);
    stage.step();
    assert_eq!(stage.status().phase, Phase::RolledBack);
}

#[test]
fn a_revision_whose_bot_leaves_on_trial_does_not_pass() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    let new = stage.on_trial();
    for (why, fails) in [("PodDeleted", false), ("LeaseExpired", false), ("BotGone", true)] {
        stage.leads(&old_pod, 3);
        let Seen::Bot(Some(view)) = &mut stage.observed.lease else { unreachable!() };
        let of = |pod: &str| view.candidates[0].party.replica.pod.as_str() == pod;
        assert!(of(&old_pod));
        let revision =
            stage.observed.pods.last().unwrap().metadata.labels.as_ref().unwrap()["pollux.dev/revision"].clone();
        view.last_handover = Some(Handover {
            from: Some(party(&new, &revision)),
            reason: why.into(),
            ..view.last_handover.clone().unwrap()
        });
        let trial = stage.plan().rollout;
        assert_eq!(matches!(trial, RolloutDecision::Roll { .. }), fails, "{why}: {trial:?}");
    }
}

#[test]
fn a_pod_that_is_ready_and_never_leads_does_not_hold_a_rollout_for_ever() {
    let mut stage = Stage::new(json!({}));
    stage.change(json!({"image": "two"}));
    stage.step();
    stage.surges(true);
    stage.step();
    stage.passes(45);
    assert!(matches!(stage.step().rollout, RolloutDecision::Try { trial: Trial::HandingOver { .. } }));
    stage.passes(1);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert!(plan.target.unwrap().failed().unwrap().contains("did not come to lead within 45 s"));
}

#[test]
fn a_leader_that_does_not_hand_back_does_not_hold_a_rollback_for_ever() {
    let mut stage = Stage::new(json!({}));
    let new = stage.on_trial();
    stage.restarts(&new, 1);
    stage.step();
    stage.passes(46);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert_eq!(plan.revision.unwrap().name, stage.old);
}

#[test]
fn a_newer_revision_waits_until_the_one_on_trial_has_handed_back() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.on_trial();
    stage.change(json!({"image": "three"}));
    let plan = stage.step();
    assert!(matches!(&plan.rollout, RolloutDecision::Return { to, .. } if *to == old_pod), "{:?}", plan.rollout);
    assert_eq!(plan.setting.unwrap().eligible.unwrap()[0], stage.old, "whoever takes it meanwhile");
    stage.leads(&old_pod, 3);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && on_trial(&plan));
    assert_eq!((plan.revision.unwrap().number, stage.state(&stage.old)), (3, RevisionState::Stable));
}

#[test]
fn a_manifest_that_goes_back_during_the_trial_makes_no_new_pods() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.on_trial();
    stage.change(json!({}));
    assert!(matches!(stage.step().rollout, RolloutDecision::Return { .. }));
    stage.leads(&old_pod, 3);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && steady(&plan), "{plan:?}");
    assert_eq!(plan.revision.unwrap().number, 1);
    assert_eq!(stage.step().rollout, RolloutDecision::Keep, "it had passed, and passes no second trial");
}

#[test]
fn going_back_to_what_was_replaced_is_a_trial_of_the_old_template_under_a_new_number() {
    let mut stage = Stage::new(json!({}));
    let template = stage.plan().revision.unwrap().template;
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.on_trial();
    stage.passes(30);
    stage.step();
    stage.gone(&old_pod);
    stage.step();
    stage.change(json!({}));
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && on_trial(&plan), "{plan:?}");
    let revision = plan.revision.unwrap();
    assert_eq!((revision.number, revision.verdict), (3, None));
    assert_eq!(revision.template, template, "byte for byte");
}

#[test]
fn a_change_of_the_leader_begins_the_trial_anew() {
    let mut stage = Stage::new(json!({"replicas": 2}));
    let new = stage.on_trial();
    stage.passes(29);
    stage.leads(&new, 3);
    let until = Timestamp::from_second(stage.now.as_second() + 30).unwrap();
    assert_eq!(stage.step().rollout, RolloutDecision::Try { trial: Trial::Baking { until } });
    stage.passes(1);
    assert_eq!(stage.step().rollout, RolloutDecision::Try { trial: Trial::Baking { until } });
}

#[test]
fn paused_means_that_nothing_is_decided() {
    let mut stage = Stage::new(json!({}));
    stage.change(json!({"image": "two", "paused": true}));
    let plan = stage.step();
    assert_eq!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::Paused });
    assert_eq!((plan.revision.unwrap().name, plan.store.len()), (stage.old.clone(), 0));
    assert_eq!((stage.status().phase, stage.progressing()), (Phase::Paused, ("Unknown".into(), "Paused".into())));
    stage.change(json!({"image": "two"}));
    stage.step();
    let new = stage.surges(true);
    stage.step();
    stage.leads(&new, 2);
    stage.step();
    stage.change(json!({"image": "two", "paused": true}));
    stage.passes(100);
    stage.restarts(&new, 3);
    let plan = stage.step();
    assert_eq!((plan.rollout, plan.store.len()), (RolloutDecision::Hold { reason: HoldReason::Paused }, 0));
    assert_eq!(plan.pace, Pace { min_ready_seconds: 75, paused: true });
}

#[test]
fn on_failure_pause_gives_the_session_back_and_waits_for_a_person() {
    let mut stage = Stage::new(json!({"onFailure": "Pause"}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.change(json!({"image": "two", "onFailure": "Pause"}));
    stage.step();
    let new = stage.surges(true);
    stage.step();
    stage.leads(&new, 2);
    stage.step();
    stage.restarts(&new, 1);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::Failed { .. } }), "{:?}", plan.rollout);
    assert_eq!(plan.request.unwrap().to_pod, old_pod);
    assert_eq!(plan.pace, Pace { min_ready_seconds: 75, paused: true });
    stage.leads(&old_pod, 3);
    assert_eq!(stage.step().request, None);
    assert_eq!(stage.status().phase, Phase::Paused);
    assert!(stage.status().message.contains("pollux.dev/promote"), "{}", stage.status().message);
    let name = stage.status().update_revision.clone().unwrap().name;

    let mut promoted = Stage { observed: stage.observed.clone(), old: stage.old.clone(), now: stage.now };
    promoted.annotate("pollux.dev/promote", &name);
    let plan = promoted.step();
    assert!(plan.rollout == RolloutDecision::Keep && steady(&plan), "{plan:?}");
    stage.annotate("pollux.dev/abort", &name);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert_eq!(plan.revision.unwrap().name, stage.old);
}

#[test]
fn a_person_decides_before_the_time_is_over() {
    let mut stage = Stage::new(json!({}));
    stage.on_trial();
    let name = stage.status().update_revision.clone().unwrap().name;
    let mut aborted = Stage { observed: stage.observed.clone(), old: stage.old.clone(), now: stage.now };
    aborted.annotate("pollux.dev/abort", &name);
    assert!(matches!(aborted.step().rollout, RolloutDecision::Return { .. }));
    stage.annotate("pollux.dev/promote", &name);
    assert_eq!(stage.step().rollout, RolloutDecision::Keep);
}

#[test]
fn where_another_cluster_leads_there_is_nothing_to_try() {
    let mut stage = Stage::new(json!({}));
    let Seen::Bot(Some(view)) = &mut stage.observed.lease else { unreachable!() };
    view.lease.holder.as_mut().unwrap().replica.resource.cluster = "c-2".into();
    stage.change(json!({"image": "two"}));
    stage.step();
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.surges(true);
    let plan = stage.step();
    assert_eq!((&plan.rollout, &plan.request), (&RolloutDecision::Try { trial: Trial::Plain }, &None));
    assert!(steady(&plan), "a rollout here hands nothing over there");
    stage.gone(&old_pod);
    assert_eq!(stage.step().rollout, RolloutDecision::Keep);
}

#[test]
fn a_bot_without_pods_has_no_trial_before_it_has_some() {
    let mut stage = Stage::new(json!({}));
    stage.change(json!({"image": "two", "replicas": 0}));
    stage.step();
    stage.observed.pods.clear();
    stage.observed.lease = Seen::Bot(None);
    stage.counted();
    stage.observed.deployment.as_mut().unwrap().spec.as_mut().unwrap().replicas = Some(0);
    let plan = stage.step();
    assert_eq!((plan.rollout, plan.store.len()), (RolloutDecision::Try { trial: Trial::Plain }, 0));
    assert_eq!(reason(stage.status(), ConditionType::Ready), ("True".into(), "Running".into()));
    stage.change(json!({"image": "two"}));
    let new = stage.surges(true);
    stage.leads(&new, 2);
    assert!(matches!(stage.step().rollout, RolloutDecision::Try { trial: Trial::Baking { .. } }));
}

#[test]
fn recreate_has_no_trial() {
    let recreate = json!({"strategy": {"type": "Recreate"}});
    let mut stage = Stage::new(recreate);
    stage.change(json!({"image": "two", "strategy": {"type": "Recreate"}}));
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && steady(&plan));
    let strategy = stage.observed.deployment.as_ref().unwrap().spec.as_ref().unwrap().strategy.clone().unwrap();
    assert_eq!((strategy.type_.as_deref(), strategy.rolling_update), (Some("Recreate"), None));
}

#[test]
fn a_silent_database_decides_nothing_about_a_trial() {
    let mut stage = Stage::new(json!({}));
    stage.on_trial();
    stage.observed.lease = Seen::Unreachable { error: "connection refused".into() };
    stage.passes(100);
    let plan = stage.step();
    assert_eq!((plan.rollout, plan.store.len()), (RolloutDecision::Try { trial: Trial::Unseen }, 0));
    assert_eq!(stage.status().rollout.as_ref().unwrap().stage, RolloutStage::Baking, "it goes on from there");
}

#[test]
fn a_revision_most_of_whose_calls_are_refused_does_not_pass() {
    for (made, failed, fails) in [(1000, 500, false), (1000, 501, true), (4, 4, false), (5, 5, true)] {
        let mut stage = Stage::new(json!({}));
        let new = stage.on_trial();
        let Seen::Bot(Some(view)) = &mut stage.observed.lease else { unreachable!() };
        view.candidates[0].report = json!({"calls": {"made": made, "failed": failed}});
        let rollout = stage.plan().rollout;
        let why = match &rollout {
            RolloutDecision::Return { why, .. } => why.as_str(),
            _ => "",
        };
        assert_eq!(why.contains(&format!("refused {failed} of {made} calls of {new}")), fails, "{rollout:?}");
    }
}

#[test]
fn an_undone_revision_is_left_for_the_one_before() {
    let mut stage = Stage::new(json!({}));
    let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
    stage.on_trial();
    stage.passes(30);
    stage.step();
    stage.gone(&old_pod);
    stage.step();
    let name = stage.status().update_revision.clone().unwrap().name;
    stage.annotate("pollux.dev/undo", &stage.old.clone());
    assert_eq!(stage.step().rollout, RolloutDecision::Keep, "that one does not run");
    stage.annotate("pollux.dev/undo", &name);
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
    assert_eq!((plan.revision.unwrap().name, stage.state(&name)), (stage.old.clone(), RevisionState::RolledBack));
    let action = stage.status().last_action.clone().unwrap();
    assert_eq!((action.request.as_str(), action.value), ("pollux.dev/undo", name));
    assert_eq!(action.result, "revision 2 is left");
}

#[test]
fn a_handover_that_somebody_asks_for_is_asked_for_once() {
    let mut stage = Stage::new(json!({"replicas": 2}));
    let standby = stage.observed.pods[1].metadata.name.clone().unwrap();
    stage.annotate("pollux.dev/handover", "somewhere@1");
    assert_eq!(stage.step().request, None, "no such pod");
    let asked = format!("{standby}@1");
    stage.annotate("pollux.dev/handover", &asked);
    let plan = stage.step();
    assert_eq!(
        (&plan.rollout, plan.request),
        (&RolloutDecision::Keep, Some(Request { id: asked, to_pod: standby.clone() }))
    );
    assert_eq!(stage.step().request, None);
    assert!(stage.status().last_action.as_ref().unwrap().result.contains("is asked to hand over to"));
    // Nor by the next revision, while that pod is still there.
    stage.annotate("pollux.dev/restarted-at", "now");
    stage.step();
    let new = stage.surges(true);
    stage.step();
    stage.leads(&new, 2);
    stage.step();
    stage.passes(30);
    stage.step();
    assert_eq!((stage.step().rollout, stage.plan().request), (RolloutDecision::Keep, None));
    let again = format!("{standby}@2");
    stage.annotate("pollux.dev/handover", &again);
    assert_eq!(stage.step().request.unwrap().id, again);
}

#[test]
fn a_restart_is_a_rollout_with_a_trial() {
    let mut stage = Stage::new(json!({}));
    stage.annotate("pollux.dev/restarted-at", "2026-12-01T10:00:00Z");
    let plan = stage.step();
    assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && on_trial(&plan), "{plan:?}");
    stage.surges(true);
    assert!(matches!(stage.step().rollout, RolloutDecision::Try { .. }), "and it is done once");
}

#[test]
fn a_secret_that_holds_another_bots_token_is_told_and_changes_nothing() {
    let mut observed = running(json!({}));
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.candidates[0].report = json!({"tokenAccepted": true, "tokenProblem": "OtherBot"});
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::TokenAccepted), ("False".into(), "TokenChangedIdentity".into()));
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert!(told.message.contains("echo-token") && told.message.contains("another bot"), "{}", told.message);
    observed.bot.status = Some(told.clone());
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.candidates[0].report = json!({});
    assert_eq!(
        reason(&super::told(&observed), ConditionType::TokenAccepted).1,
        "TokenChangedIdentity",
        "nobody knows better"
    );
}

mod migration {
    use super::*;

    fn stage() -> (Stage, Value) {
        let mut stage = Stage::new(json!({}));
        let spec = json!({"image": "two", "migration": {"command": ["migrate"], "env": [{"name": "A", "value": "1"}]}});
        stage.change(spec.clone());
        (stage, spec)
    }

    /// The Job that is made, as the API server shows it.
    fn made(stage: &mut Stage, plan: &Plan) -> String {
        let job = build(&stage.observed, plan).migration.expect("a Job");
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        stage.observed.migrations.push(serde_json::from_value(job).unwrap());
        name
    }

    fn ends(stage: &mut Stage, condition: &str, reason: &str) {
        let job = stage.observed.migrations.last_mut().unwrap();
        job.status =
            serde_json::from_value(json!({"conditions": [{"type": condition, "status": "True", "reason": reason}]}))
                .unwrap();
    }

    #[test]
    fn a_migration_succeeds_before_a_pod_of_the_new_revision_comes() {
        let (mut stage, _) = stage();
        let plan = stage.step();
        assert_eq!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::Migrating });
        assert_eq!(plan.revision.as_ref().unwrap().name, stage.old, "the old pods serve");
        let job = made(&mut stage, &plan);
        insta::assert_yaml_snapshot!("migration", build(&stage.observed, &plan).migration);
        assert!(job.len() <= 63 && job.starts_with("echo-m2-"), "{job}");
        let plan = stage.step();
        assert!(!plan.migrate, "once");
        assert_eq!(
            (stage.status().phase, reason(stage.status(), ConditionType::Migrated).0),
            (Phase::Migrating, "Unknown".into())
        );

        ends(&mut stage, "Complete", "CompletionsReached");
        let plan = stage.step();
        assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }), "{:?}", plan.rollout);
        assert!(plan.store[0].migrated);
        assert_eq!(reason(stage.status(), ConditionType::Migrated), ("True".into(), "Succeeded".into()));
        stage.observed.migrations.clear();
        stage.surges(true);
        assert!(
            matches!(stage.step().rollout, RolloutDecision::Try { .. }),
            "and not again when the Job was tidied up"
        );
    }

    #[test]
    fn a_migration_that_fails_rolls_nothing_out_and_shows_its_last_words() {
        let (mut stage, _) = stage();
        let plan = stage.step();
        let job = made(&mut stage, &plan);
        ends(&mut stage, "Failed", "BackoffLimitExceeded");
        stage.observed.migration_pods.push(serde_json::from_value(json!({
            "metadata": {"name": "m", "labels": {"batch.kubernetes.io/job-name": job}},
            "status": {"containerStatuses": [{"name": "migration", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 3, "message": "one\ntwo\nthree\nERROR: column \"x\" exists\n"}}}]},
        })).unwrap());
        let plan = stage.step();
        assert!(
            matches!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::RolledBack { .. } }),
            "{:?}",
            plan.rollout
        );
        assert_eq!(plan.revision.unwrap().name, stage.old);
        let status = stage.status().clone();
        assert_eq!((status.phase, status.ready.as_str()), (Phase::RolledBack, "1/1"));
        assert_eq!(reason(&status, ConditionType::Migrated), ("False".into(), "JobFailed".into()));
        assert_eq!(reason(&status, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
        assert!(status.message.contains("exit code 3, two / three / ERROR: column \"x\" exists"), "{}", status.message);

        let name = status.update_revision.unwrap().name;
        stage.annotate("pollux.dev/retry", &name);
        let plan = stage.step();
        assert!(plan.migrate, "{:?}", plan.rollout);
        assert_ne!(made(&mut stage, &plan), job, "another attempt is another Job");
    }

    #[test]
    fn a_first_revision_whose_migration_fails_makes_no_pods() {
        let spec = json!({"migration": {"command": ["migrate"]}});
        let mut stage = Stage { observed: fresh(spec), now: now(), old: String::new() };
        let plan = stage.step();
        assert_eq!(stage.observed.deployment, None);
        made(&mut stage, &plan);
        ends(&mut stage, "Failed", "DeadlineExceeded");
        let plan = stage.step();
        assert!(
            matches!(plan.rollout, RolloutDecision::Hold { reason: HoldReason::MigrationFailed { .. } }),
            "{:?}",
            plan.rollout
        );
        assert_eq!((stage.observed.deployment.clone(), stage.status().phase), (None, Phase::Degraded));
    }

    #[test]
    fn a_revision_that_comes_back_does_not_migrate_again() {
        let (mut stage, spec) = stage();
        let plan = stage.step();
        made(&mut stage, &plan);
        ends(&mut stage, "Complete", "CompletionsReached");
        let old_pod = stage.observed.pods[0].metadata.name.clone().unwrap();
        stage.step();
        let new = stage.surges(true);
        stage.step();
        stage.leads(&new, 2);
        stage.step();
        stage.passes(30);
        stage.step();
        stage.gone(&old_pod);
        stage.change(json!({}));
        assert!(matches!(stage.step().rollout, RolloutDecision::Roll { .. }), "no migration is asked for");
        let back = stage.surges(true);
        stage.step();
        stage.leads(&back, 3);
        stage.step();
        stage.passes(30);
        stage.step();
        stage.observed.migrations.clear();
        stage.change(spec);
        let plan = stage.step();
        assert!(matches!(plan.rollout, RolloutDecision::Roll { .. }) && !plan.migrate, "{:?}", plan.rollout);
    }
}
