//! Why a pod does not get ready, in Kubernetes' own words, and how to mend it.
//!
//! The controller has no verbs on Secrets and ConfigMaps, so it cannot look whether they are there. It reads what the kubelet
//! says: the waiting reasons of containers, the conditions of the pod, and (mounts are reported nowhere else) its events.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use pollux_api::names::{label, pod as names};
use pollux_api::spec::TelegramBotSpec;
use pollux_api::words::Reason;
use pollux_lease::{FullLogin, Replica};

use crate::grant::{is_role_name, role_name};
use crate::leases::Seen;
use crate::observe::Observed;

/// What keeps a pod from getting ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The pod.
    pub(crate) pod: String,
    /// Its revision.
    pub(crate) revision: String,
    /// One word, Kubernetes' own.
    pub(crate) reason: String,
    /// What happened and how to mend it.
    pub(crate) message: String,
    /// A Secret or ConfigMap is missing.
    pub(crate) missing_secret: bool,
}

/// Whether the lease database knows a pod's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// It does.
    Yes,
    /// It answers the operator, and has never heard of the agent.
    No,
    /// The same, and this login, probably the agent's, gets no further session.
    NoSession(&'a FullLogin),
    /// It does not answer the operator either.
    Unknown,
}

/// Waiting reasons that do not pass by themselves within seconds.
const STUCK: [&str; 12] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
    "PostStartHookError",
    "SignatureValidationFailed",
];

/// An image that cannot be pulled.
const PULLING: &str = "ImagePullBackOff";
/// A container that ends again and again.
const CRASHING: &str = "CrashLoopBackOff";
/// How long a pod may take to get its sandbox and its mounts before their failures count.
const STARTING_SECONDS: i64 = 15;
/// What is said of an agent that could not reach its lease database.
const UNSEEN: &str = "its agent has not been seen in the lease database";
/// How long a bot may run before it is strange that it has not asked for updates.
const SILENT_SECONDS: i64 = 20;

/// Whether the pod is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod ended and will not run again.
pub(crate) fn is_over(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// Whether the pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _, _)| status == "True")
}

/// The pod's revision.
pub(crate) fn revision(pod: &Pod) -> &str {
    pod.labels().get(label::REVISION).map_or("", String::as_str)
}

/// Whether the pod's events may say more than the pod does.
pub(crate) fn needs_events(pod: &Pod) -> bool {
    !is_terminating(pod) && !is_over(pod) && !is_ready(pod)
}

/// That a container of the pod, the agent or one of the user's, has restarted more often than that.
pub(crate) fn restarts(pod: &Pod, limit: i32) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let worst = all.max_by_key(|container| container.restart_count).filter(|c| c.restart_count > limit)?;
    let ended = worst.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let how = ended.map(|ended| match ended.reason.as_deref().filter(|why| *why != "Error") {
        Some(why) => format!(" (exit code {}, {why})", ended.exit_code),
        None => format!(" (exit code {})", ended.exit_code),
    });
    Some(format!(
        "{} restarts of container {} in pod {}{}, of which spec.analysis.maxContainerRestarts allows {limit}",
        worst.restart_count,
        worst.name,
        pod.name_any(),
        how.unwrap_or_default()
    ))
}

/// What keeps the pods from getting ready that do not.
pub(crate) fn troubles(observed: &Observed, now: Timestamp) -> Vec<Trouble> {
    let none = Vec::new();
    let spec = &observed.bot.spec;
    let of = |pod: &Pod| {
        let events = observed.events.get(&pod.name_any()).unwrap_or(&none);
        trouble(pod, events, spec, heard(observed, pod), now)
    };
    observed.pods.iter().filter_map(of).collect()
}

/// Whether the lease database knows the agent of this pod. Other agents that it knows say nothing of this one: a pod may have
/// another revision's credentials.
pub(crate) fn heard<'a>(observed: &'a Observed, pod: &Pod) -> Heard<'a> {
    let Seen::Bot(view) = &observed.lease else { return Heard::Unknown };
    let uid = pod.uid().unwrap_or_default();
    let is_of_pod = |replica: &Replica| replica.resource == observed.resource && replica.pod_uid == uid;
    let known = view.iter().flat_map(|view| &view.candidates).any(|candidate| is_of_pod(&candidate.party.replica));
    if known {
        return Heard::Yes;
    }
    // Its login is in a Secret that the operator cannot read: that of the namespace, or else one that somebody made by hand.
    let full = &observed.full_logins;
    let own = role_name(&observed.resource.cluster, &observed.resource.namespace);
    let by_hand = || full.iter().find(|login| !is_role_name(&login.name));
    full.iter().find(|login| login.name == own).or_else(by_hand).map_or(Heard::No, Heard::NoSession)
}

/// What the Deployment's controller gave up on.
pub(crate) fn deployment_failure(deployment: Option<&Deployment>) -> Option<(String, String)> {
    let conditions = deployment?.status.as_ref()?.conditions.as_ref()?;
    let find = |type_: &str| conditions.iter().find(|c| c.type_ == type_);
    if let Some(failure) = find("ReplicaFailure").filter(|c| c.status == "True") {
        return Some((failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default()));
    }
    find("Progressing").and_then(no_progress).map(|said| (Reason::DeadlineExceeded.to_string(), said))
}

/// That it gave up on the rollout that began then, and not on an earlier one: until it has looked at a new template, it still says
/// what it said of the old one.
pub(crate) fn gave_up(deployment: &Deployment, began: Timestamp) -> Option<String> {
    let status = deployment.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let of_this = |c: &&DeploymentCondition| {
        c.type_ == "Progressing" && c.last_update_time.as_ref().is_some_and(|time| time.0 > began)
    };
    let seen = status.observed_generation >= deployment.metadata.generation;
    conditions.filter(|_| seen).find(of_this).and_then(no_progress)
}

fn no_progress(progressing: &DeploymentCondition) -> Option<String> {
    let said = progressing.message.as_deref().unwrap_or_default();
    (progressing.reason.as_deref() == Some("ProgressDeadlineExceeded")).then(|| {
        format!(
            "no progress within spec.progressDeadlineSeconds, because a pod does not get ready: {said}: look at kubectl logs -c agent and -c bot of the newest pod"
        )
    })
}

/// What keeps this pod from getting ready, if anything does.
pub(crate) fn trouble(
    pod: &Pod,
    events: &[Event],
    spec: &TelegramBotSpec,
    heard: Heard<'_>,
    now: Timestamp,
) -> Option<Trouble> {
    if !needs_events(pod) {
        return None;
    }
    let (reason, message) = unschedulable(pod)
        .or_else(|| waiting(pod))
        .or_else(|| mount(pod, events, now))
        .or_else(|| silent(pod, &spec.lease.database, heard, now))?;
    let (mend, missing_secret) = mend(&reason, &message, spec, &pod.namespace().unwrap_or_default());
    let message = match mend {
        Some(mend) => format!("pod {}: {}: {mend}", pod.name_any(), one_line(&message)),
        None => format!("pod {}: {}", pod.name_any(), one_line(&message)),
    };
    Some(Trouble { pod: pod.name_any(), revision: revision(pod).to_owned(), reason, message, missing_secret })
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)?;
    Some((
        &condition.status,
        condition.reason.as_deref().unwrap_or_default(),
        condition.message.as_deref().unwrap_or_default(),
    ))
}

fn unschedulable(pod: &Pod) -> Option<(String, String)> {
    let (status, reason, message) = condition(pod, "PodScheduled")?;
    (status == "False")
        .then(|| (if reason.is_empty() { "Unschedulable" } else { reason }.to_owned(), message.to_owned()))
}

fn waiting(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter_map(container).next()
}

fn container(container: &ContainerStatus) -> Option<(String, String)> {
    let state = container.state.as_ref()?;
    let waiting =
        state.waiting.as_ref().and_then(|waiting| Some((waiting.reason.as_deref()?, waiting.message.as_deref())));
    if let Some((reason, said)) = waiting.filter(|(reason, _)| STUCK.contains(reason) && *reason != CRASHING) {
        let said = said.unwrap_or_default();
        // The kubelet tries and waits in turn; that is one trouble and not two, and while it waits it repeats what it heard.
        if matches!(reason, PULLING | "ErrImagePull") {
            let why = said.split_once(": ErrImagePull: ").map_or(said, |(_, why)| why);
            let text = format!("container {}: {PULLING}: image {:?}: {why}", container.name, container.image);
            return Some((PULLING.to_owned(), text));
        }
        return Some((reason.to_owned(), format!("container {}: {reason}: {said}", container.name)));
    }
    // A container that keeps ending waits, runs and ends in turn; that is one trouble and not three.
    let ended =
        state.terminated.as_ref().or(container.last_state.as_ref().and_then(|state| state.terminated.as_ref()))?;
    let keeps_ending = waiting.is_some_and(|(reason, _)| reason == CRASHING) || container.restart_count >= 2;
    let why = ended.reason.as_deref().filter(|why| *why != "Error").map(|why| format!(", {why}")).unwrap_or_default();
    let text = format!("container {} keeps ending: exit code {}{why}", container.name, ended.exit_code);
    keeps_ending.then(|| (CRASHING.to_owned(), text))
}

/// All containers run, and still the agent says that its bot could not lead. An agent says so too as long as the lease database
/// has not answered it: the bot is to blame only if the database has. While nobody knows, the database is what is told of.
fn silent(pod: &Pod, database: &str, heard: Heard<'_>, now: Timestamp) -> Option<(String, String)> {
    let bot = pod.status.as_ref()?.container_statuses.iter().flatten().find(|c| c.name == names::BOT_CONTAINER)?;
    let since = bot.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
    let quiet = now.duration_since(since.0).as_secs();
    let (reason, text) = match heard {
        Heard::Yes => (Reason::PodNotReady, "its bot runs, but has not asked for updates".to_owned()),
        Heard::No => (Reason::PodNotReady, format!("{UNSEEN} {database:?}")),
        Heard::NoSession(login) => {
            (Reason::ConnectionLimit, format!("{UNSEEN} {database:?}, where {}", is_full(login)))
        }
        Heard::Unknown => return None,
    };
    (quiet > SILENT_SECONDS).then(|| (reason.to_string(), text))
}

/// That a login gets no further session.
pub(crate) fn is_full(login: &FullLogin) -> String {
    format!("the role {} has all the {} sessions of its CONNECTION LIMIT", login.name, login.limit)
}

/// What helps then.
pub(crate) const MORE_SESSIONS: &str = "give it more (each pod has one, two with failover Fast, and an update brings one more pod): pollux-controller grant --connection-limit, or ALTER ROLE … CONNECTION LIMIT";

/// The newest failed mount; one of ours before any other. Something that is missing is said at once; other failures pass by
/// themselves on a busy node, and count when they have not.
fn mount(pod: &Pod, events: &[Event], now: Timestamp) -> Option<(String, String)> {
    let mut failed: Vec<_> = events
        .iter()
        .filter(|event| {
            matches!(event.reason.as_deref(), Some("FailedMount" | "FailedAttachVolume" | "FailedCreatePodSandBox"))
        })
        .collect();
    failed.sort_by_key(|event| {
        let ours = event.message.as_deref().is_some_and(|message| message.contains("for volume \"pollux-"));
        let time = event.last_timestamp.as_ref().map(|time| time.0).or(event.event_time.as_ref().map(|time| time.0));
        (ours, time)
    });
    let event = failed.pop()?;
    let message = event.message.clone().unwrap_or_default();
    let age = pod.creation_timestamp().map_or(0, |created| now.duration_since(created.0).as_secs());
    (is_absence(&message) || age > STARTING_SECONDS).then_some((event.reason.clone()?, message))
}

/// What helps. The kubelet has no codes for these, only sentences; what is not recognised is shown as it is.
fn mend(reason: &str, said: &str, spec: &TelegramBotSpec, namespace: &str) -> (Option<String>, bool) {
    let volume = |name: &str| said.contains(&format!("for volume \"{name}\""));
    let absent = is_absence(said);
    if reason == "FailedMount" && absent {
        if volume(names::TOKEN_VOLUME) {
            let token = &spec.token_secret_ref;
            let create = format!(
                "kubectl -n {namespace} create secret generic {} --from-literal={}=<token from @BotFather>",
                token.name, token.key
            );
            return (
                Some(format!(
                    "make the Secret {:?} with the key {:?} (spec.tokenSecretRef): {create}",
                    token.name, token.key
                )),
                true,
            );
        }
        if volume(names::LEASE_VOLUME) {
            let secret = spec.lease.credentials_secret_ref.as_ref();
            let (name, key) = secret
                .map_or((pollux_api::names::LEASE_SECRET, pollux_api::names::LEASE_SECRET_KEY), |s| (&s.name, &s.key));
            return (
                Some(format!(
                    "make the Secret {name:?} with the key {key:?} (the agents' PostgreSQL URI), for one by adding {namespace} to the chart's botNamespaces, or: kubectl -n {namespace} create secret generic {name} --from-literal={key}=<postgres URI>"
                )),
                true,
            );
        }
        if volume(names::CA_VOLUME) {
            return (Some("make the ConfigMap that spec.botApi.caConfigMapRef names".to_owned()), true);
        }
        return (Some("make what the volume names".to_owned()), true);
    }
    if reason == "CreateContainerConfigError" && absent {
        return (Some("make the Secret or ConfigMap that spec.env or spec.envFrom names".to_owned()), true);
    }
    let mend = match reason {
        "CreateContainerConfigError" if said.contains("runAsNonRoot") => {
            "the image runs as root, or under a user name: set spec.podTemplate.spec.securityContext.runAsUser to a number that is not 0"
        }
        "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => {
            "check the image's name and tag, and spec.imagePullSecrets if its registry is private"
        }
        "Unschedulable" => "make room in the cluster, or lower the requests in spec.resources",
        "CrashLoopBackOff" => "look at its logs with kubectl logs, --previous for those of the last run",
        "ConnectionLimit" => MORE_SESSIONS,
        "PodNotReady" if said.starts_with(UNSEEN) => {
            "check the URI in its Secret (spec.lease.credentialsSecretRef), and look at its logs with kubectl logs -c agent"
        }
        "PodNotReady" => {
            "look at its logs with kubectl logs -c bot; it must use the address in TELEGRAM_API_ROOT as that of the Bot API"
        }
        "PostStartHookError" => "look at its logs with kubectl logs -c agent",
        _ => return (None, false),
    };
    (Some(mend.to_owned()), false)
}

fn is_absence(said: &str) -> bool {
    ["not found", "non-existent", "couldn't find key"].iter().any(|words| said.contains(words))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches(['.', ' ']).to_owned()
}

/// Events of pods, by the pods' names.
pub(crate) type EventsByPod = BTreeMap<String, Vec<Event>>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Of a pod whose agent the lease database knows.
    fn trouble(pod: &Pod, events: &[Event], spec: &TelegramBotSpec, now: Timestamp) -> Option<Trouble> {
        super::trouble(pod, events, spec, Heard::Yes, now)
    }

    fn spec() -> TelegramBotSpec {
        serde_json::from_value(json!({"image": "i", "tokenSecretRef": {"name": "echo-token"}})).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "echo-1", "namespace": "bots", "labels": {"pollux.dev/revision": "abc"}}, "status": status})).unwrap()
    }

    fn event(message: &str) -> Event {
        serde_json::from_value(json!({"metadata": {}, "involvedObject": {}, "reason": "FailedMount", "message": message, "lastTimestamp": "2026-01-01T00:00:00Z"})).unwrap()
    }

    fn waiting(reason: &str, message: &str) -> Pod {
        pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "bot", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }]}))
    }

    #[test]
    fn image_that_cannot_be_pulled() {
        let found = trouble(&waiting("ImagePullBackOff", "Back-off pulling image \"x\""), &[], &spec(), now()).unwrap();
        assert_eq!((found.reason.as_str(), found.missing_secret), ("ImagePullBackOff", false));
        assert!(
            found.message.contains("Back-off pulling image \"x\"") && found.message.contains("imagePullSecrets"),
            "{}",
            found.message
        );
    }

    #[test]
    fn pull_that_fails_is_one_trouble_while_it_is_tried_and_while_it_waits() {
        let said = "failed to pull and unpack image \"i\": not found";
        let found = |reason, message: &str| trouble(&waiting(reason, message), &[], &spec(), now()).unwrap();
        let tried = found("ErrImagePull", said);
        assert_eq!(tried, found("ImagePullBackOff", &format!("Back-off pulling image \"i\": ErrImagePull: {said}")));
        assert!(tried.reason == "ImagePullBackOff" && tried.message.contains("not found"), "{tried:?}");
    }

    #[test]
    fn token_secret_that_is_missing() {
        let said = "MountVolume.SetUp failed for volume \"pollux-token\" : secret \"echo-token\" not found";
        let found = trouble(&pod(json!({"phase": "Pending"})), &[event(said)], &spec(), now()).unwrap();
        assert!(found.missing_secret);
        assert!(
            found.message.contains("kubectl -n bots create secret generic echo-token --from-literal=token="),
            "{}",
            found.message
        );
    }

    #[test]
    fn key_of_the_token_secret_that_is_missing() {
        let said = "MountVolume.SetUp failed for volume \"pollux-token\" : references non-existent secret key: token";
        assert!(trouble(&pod(json!({"phase": "Pending"})), &[event(said)], &spec(), now()).unwrap().missing_secret);
    }

    #[test]
    fn lease_secret_that_is_missing() {
        let said = "MountVolume.SetUp failed for volume \"pollux-lease\" : secret \"pollux-lease\" not found";
        let found = trouble(&pod(json!({"phase": "Pending"})), &[event(said)], &spec(), now()).unwrap();
        assert!(found.missing_secret && found.message.contains("botNamespaces"), "{}", found.message);
    }

    #[test]
    fn variable_from_a_secret_that_is_missing() {
        let found =
            trouble(&waiting("CreateContainerConfigError", "secret \"other\" not found"), &[], &spec(), now()).unwrap();
        assert!(found.missing_secret && found.message.contains("spec.env"), "{}", found.message);
    }

    #[test]
    fn image_that_wants_to_be_root() {
        let found = trouble(
            &waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            &[],
            &spec(),
            now(),
        )
        .unwrap();
        assert!(!found.missing_secret && found.message.contains("runAsUser"), "{}", found.message);
    }

    #[test]
    fn crash_loop_is_one_trouble_in_all_its_states() {
        let one =
            trouble(&waiting("CrashLoopBackOff", "back-off 10s restarting failed container=bot"), &[], &spec(), now())
                .unwrap();
        assert!(
            one.message.contains("exit code 137, OOMKilled") && one.message.contains("--previous"),
            "{}",
            one.message
        );
        let ended = json!({"exitCode": 137, "reason": "OOMKilled"});
        for state in [
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s restarting failed container=bot"}}),
            json!({"running": {"startedAt": "2026-01-01T00:00:59Z"}}),
            json!({"terminated": ended}),
        ] {
            let again = pod(json!({"phase": "Running", "containerStatuses": [{
                "name": "bot", "image": "i", "imageID": "", "ready": false, "restartCount": 4, "state": state, "lastState": {"terminated": ended},
            }]}));
            assert_eq!(trouble(&again, &[], &spec(), now()).as_ref(), Some(&one), "{state}");
        }
    }

    #[test]
    fn one_restart_is_no_crash_loop() {
        let again = pod(json!({"phase": "Running", "containerStatuses": [{
            "name": "bot", "image": "i", "imageID": "", "ready": true, "restartCount": 1,
            "state": {"running": {"startedAt": "2026-01-01T00:00:59Z"}}, "lastState": {"terminated": {"exitCode": 1}},
        }]}));
        assert_eq!(trouble(&again, &[], &spec(), now()), None);
    }

    #[test]
    fn node_that_is_missing() {
        let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        assert_eq!(trouble(&pod(status), &[], &spec(), now()).unwrap().reason, "Unschedulable");
    }

    #[test]
    fn pod_that_is_just_starting_is_no_trouble() {
        let starting = pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "bot", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}},
        }]}));
        assert_eq!(trouble(&starting, &[], &spec(), now()), None);
        let ready = pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(trouble(&ready, &[event("x")], &spec(), now()), None);
    }

    #[test]
    fn bot_that_runs_and_never_asks_for_updates() {
        let started = |at: &str| {
            pod(json!({"phase": "Running", "containerStatuses": [{
                "name": "bot", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": at}},
            }]}))
        };
        let found = trouble(&started("2026-01-01T00:00:30Z"), &[], &spec(), now()).unwrap();
        assert_eq!(found.reason, "PodNotReady");
        assert!(found.message.contains("TELEGRAM_API_ROOT"), "{}", found.message);
        assert_eq!(trouble(&started("2026-01-01T00:00:50Z"), &[], &spec(), now()), None, "it may still be starting");
    }

    #[test]
    fn bot_is_not_blamed_for_an_agent_that_the_lease_database_does_not_know() {
        let running = pod(json!({"phase": "Running", "containerStatuses": [{
            "name": "bot", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:30Z"}},
        }]}));
        let found = super::trouble(&running, &[], &spec(), Heard::No, now()).unwrap();
        assert_eq!(found.reason, "PodNotReady");
        assert!(
            found.message.contains("lease database \"default\"") && found.message.contains("check the URI"),
            "{}",
            found.message
        );
        assert!(!found.message.contains("TELEGRAM_API_ROOT"), "{}", found.message);
        assert_eq!(super::trouble(&running, &[], &spec(), Heard::Unknown, now()), None, "the database is told of");
    }

    #[test]
    fn mount_that_succeeds_at_the_second_try_is_no_trouble() {
        let said = "MountVolume.SetUp failed for volume \"pollux-token\" : failed to sync secret cache: timed out waiting for the condition";
        let mut starting = pod(json!({"phase": "Pending"}));
        starting.metadata.creation_timestamp = serde_json::from_value(json!("2026-01-01T00:00:55Z")).unwrap();
        assert_eq!(trouble(&starting, &[event(said)], &spec(), now()), None);
        starting.metadata.creation_timestamp = serde_json::from_value(json!("2026-01-01T00:00:30Z")).unwrap();
        assert_eq!(trouble(&starting, &[event(said)], &spec(), now()).unwrap().reason, "FailedMount");
    }
}
