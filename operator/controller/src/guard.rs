//! What `spec.podTemplate` may not do, judged on the merged template: it does not matter how the patch was written.
//!
//! Protected is what the handover and the lease rest on. Everything else is the user's: more containers and volumes, nodes,
//! security contexts, probes of the bot, a longer grace period.

use pollux_api::names::{label, pod};
use pollux_api::spec::Agent;
use pollux_api::words::Reason;
use serde_json::{Map, Value};

/// Why a merged template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.podTemplate{path}: {mend}")]
pub(crate) struct Refusal {
    /// Which reason of the condition SpecValid it is.
    pub(crate) reason: Reason,
    path: String,
    mend: String,
}

/// What the agent's container may be given by the template; the rest of it is ours.
const AGENT_MAY: [&str; 3] = ["resources", "securityContext", "imagePullPolicy"];

/// Judges `merged` against what was `generated` for a bot with this agent.
pub(crate) fn check(ours: &Agent, generated: &Map<String, Value>, merged: &Map<String, Value>) -> Result<(), Refusal> {
    let generated = Value::Object(generated.clone());
    let merged = Value::Object(merged.clone());
    top(&merged)?;
    metadata(&generated, &merged)?;
    pod_spec(&generated["spec"], &merged["spec"])?;
    agent(&generated, &merged)?;
    bot(ours, &generated, &merged)?;
    containers(ours, &merged["spec"])?;
    volumes(&generated["spec"], &merged["spec"])
}

fn refuse(path: impl Into<String>, mend: impl Into<String>) -> Refusal {
    Refusal { reason: Reason::PodTemplateInvalid, path: path.into(), mend: mend.into() }
}

fn top(merged: &Value) -> Result<(), Refusal> {
    match merged
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .find(|key| !["metadata", "spec"].contains(&key.as_str()))
    {
        Some(key) => {
            Err(refuse(format!(".{key}"), "a pod template has only metadata and spec: move it there or remove it"))
        }
        None => Ok(()),
    }
}

fn metadata(generated: &Value, merged: &Value) -> Result<(), Refusal> {
    for field in ["labels", "annotations"] {
        for (key, value) in generated["metadata"][field].as_object().into_iter().flatten() {
            let ours = key.starts_with("pollux.dev/")
                || [label::NAME, label::INSTANCE, label::MANAGED_BY].contains(&key.as_str());
            if ours && merged["metadata"][field].get(key) != Some(value) {
                return Err(refuse(
                    format!(".metadata.{field}[{key}]"),
                    "is set by Pollux, which finds the pods by it: remove it",
                ));
            }
        }
    }
    Ok(())
}

fn pod_spec(generated: &Value, merged: &Value) -> Result<(), Refusal> {
    for (field, why) in [
        ("hostNetwork", "would open the bot's local Bot API endpoint to the whole node"),
        ("hostPID", "would let the bot signal the agent that keeps it from polling"),
        ("shareProcessNamespace", "would let the bot signal the agent that keeps it from polling"),
    ] {
        if merged.get(field).is_some_and(|value| value != &Value::Bool(false)) {
            return Err(refuse(format!(".spec.{field}"), format!("{why}: remove it")));
        }
    }
    if merged.get("restartPolicy").is_some_and(|policy| policy != "Always") {
        return Err(refuse(".spec.restartPolicy", "pods of a bot are restarted always: remove it"));
    }
    if ["activeDeadlineSeconds", "ephemeralContainers"].iter().any(|field| merged.get(field).is_some()) {
        return Err(refuse(
            ".spec",
            "activeDeadlineSeconds and ephemeralContainers have no place in a bot's template: remove them",
        ));
    }
    let needed = generated["terminationGracePeriodSeconds"].as_i64().unwrap_or_default();
    if merged["terminationGracePeriodSeconds"].as_i64().is_none_or(|seconds| seconds < needed) {
        return Err(Refusal {
            reason: Reason::GracePeriodTooShort,
            path: ".spec.terminationGracePeriodSeconds".into(),
            mend: format!(
                "must be at least {needed} (drain + takeover 15 + slack 10): remove it, or lower spec.handover.drainTimeoutSeconds"
            ),
        });
    }
    Ok(())
}

fn named<'a>(template: &'a Value, list: &str, name: &str) -> Option<&'a Map<String, Value>> {
    template["spec"][list].as_array()?.iter().find(|item| item["name"] == name)?.as_object()
}

fn agent(generated: &Value, merged: &Value) -> Result<(), Refusal> {
    let path = ".spec.initContainers[agent]";
    let (Some(ours), Some(theirs)) = (
        named(generated, "initContainers", pod::AGENT_CONTAINER),
        named(merged, "initContainers", pod::AGENT_CONTAINER),
    ) else {
        return Err(refuse(path, "the agent cannot be removed"));
    };
    let all = ours.keys().chain(theirs.keys());
    match all.into_iter().find(|field| !AGENT_MAY.contains(&field.as_str()) && ours.get(*field) != theirs.get(*field)) {
        Some(field) if field == "image" => Err(refuse(format!("{path}.image"), "set spec.agent.image instead")),
        Some(field) => Err(refuse(
            format!("{path}.{field}"),
            "the agent's container takes only resources, securityContext and imagePullPolicy from here: remove it",
        )),
        None if merged["spec"]["initContainers"][0]["name"] != pod::AGENT_CONTAINER => {
            Err(refuse(path, "the agent must stay the first init container"))
        }
        None => Ok(()),
    }
}

fn bot(agent: &Agent, generated: &Value, merged: &Value) -> Result<(), Refusal> {
    let path = ".spec.containers[bot]";
    let (Some(ours), Some(theirs)) =
        (named(generated, "containers", pod::BOT_CONTAINER), named(merged, "containers", pod::BOT_CONTAINER))
    else {
        return Err(refuse(path, "the bot's container cannot be removed"));
    };
    for (field, instead) in [
        ("image", "spec.image"),
        ("imagePullPolicy", "spec.imagePullPolicy"),
        ("command", "spec.command"),
        ("args", "spec.args"),
    ] {
        if ours.get(field) != theirs.get(field) {
            return Err(refuse(format!("{path}.{field}"), format!("set {instead} instead")));
        }
    }
    if theirs.get("lifecycle").and_then(|l| l.get("preStop")) != ours["lifecycle"].get("preStop") {
        return Err(refuse(format!("{path}.lifecycle.preStop"), "hands over before the bot is stopped: remove it"));
    }
    if theirs.get("restartPolicy").is_some() {
        return Err(refuse(format!("{path}.restartPolicy"), "the bot is restarted always: remove it"));
    }
    let is_our_variable = |name: &Value| is_our_variable(agent, name);
    for (list, key, mine) in
        [("env", "name", &is_our_variable as &dyn Fn(&Value) -> bool), ("volumeMounts", "name", &is_our_volume)]
    {
        let kept = |container: &Map<String, Value>| -> Vec<Value> {
            container
                .get(list)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|item| mine(&item[key]))
                .cloned()
                .collect()
        };
        if kept(ours) != kept(theirs) {
            return Err(refuse(
                format!("{path}.{list}"),
                "those of Pollux (variables that lead to the agent, volumes pollux-*) cannot be changed: remove them",
            ));
        }
    }
    Ok(())
}

fn is_our_variable(agent: &Agent, name: &Value) -> bool {
    let ours = |name: &str| pod::API_URL_ENV.contains(&name) || name == pod::TOKEN_FILE_ENV;
    name.as_str().is_some_and(|name| ours(name) || agent.api_url_env.iter().any(|more| more == name))
}

fn is_our_volume(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with(pod::VOLUME_PREFIX))
}

/// All containers of a pod share its ports, and only the agent may read the lease's credentials.
fn containers(agent: &Agent, spec: &Value) -> Result<(), Refusal> {
    let taken = [agent.api_port, agent.metrics_port].map(i64::from);
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array().into_iter().flatten().filter(|c| c["name"] != pod::AGENT_CONTAINER) {
            let path = format!(".spec.{list}[{}]", container["name"].as_str().unwrap_or("?"));
            let ports = container["ports"].as_array().into_iter().flatten();
            if let Some(port) =
                ports.filter_map(|port| port["containerPort"].as_i64()).find(|port| taken.contains(port))
            {
                return Err(Refusal {
                    reason: Reason::PortConflict,
                    path: format!("{path}.ports"),
                    mend: format!(
                        "port {port} is the agent's, and containers of a pod share their ports: use another one"
                    ),
                });
            }
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let allowed = |name: &Value| {
                container["name"] == pod::BOT_CONTAINER && (name == pod::SHARED_VOLUME || name == pod::TOKEN_VOLUME)
            };
            if mounts.map(|mount| &mount["name"]).any(|name| is_our_volume(name) && !allowed(name)) {
                return Err(refuse(
                    format!("{path}.volumeMounts"),
                    "volumes pollux-* belong to the agent: mount the Secret or ConfigMap by a volume of your own",
                ));
            }
        }
    }
    Ok(())
}

fn volumes(generated: &Value, merged: &Value) -> Result<(), Refusal> {
    let ours = |spec: &Value| -> Vec<Value> {
        spec["volumes"].as_array().into_iter().flatten().filter(|v| is_our_volume(&v["name"])).cloned().collect()
    };
    if ours(generated) != ours(merged) {
        return Err(refuse(".spec.volumes", "names that start with pollux- are Pollux's own: use another name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge;
    use crate::template::{Context, render};
    use pollux_api::TelegramBotSpec;
    use serde_json::json;

    fn judged(patch: Value) -> Result<(), Refusal> {
        judged_with(json!({}), patch)
    }

    fn judged_with(agent: Value, patch: Value) -> Result<(), Refusal> {
        let spec = json!({"image": "i", "tokenSecretRef": {"name": "t"}, "agent": agent});
        let spec: TelegramBotSpec = serde_json::from_value(spec).unwrap();
        let context = Context {
            cluster: "c",
            namespace: "n",
            bot: "echo",
            revision: "r",
            agent_image: "a",
            service_account: "s",
        };
        let generated = render(&spec, &context);
        let mut merged = generated.clone();
        merge::merge(&mut merged, patch.as_object().unwrap()).unwrap();
        check(&spec.agent, &generated, &merged)
    }

    #[track_caller]
    fn refused(patch: Value, reason: Reason, words: &str) {
        let refusal = judged(patch.clone()).expect_err(&patch.to_string());
        assert_eq!(refusal.reason, reason, "{refusal}");
        assert!(refusal.to_string().contains(words), "{refusal}");
    }

    #[test]
    fn what_users_need_is_allowed() {
        for patch in [
            json!({}),
            json!({"metadata": {"labels": {"team": "x"}, "annotations": {"a": "b"}}}),
            json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "p", "affinity": null}}),
            json!({"spec": {"containers": [{"name": "bot", "livenessProbe": {"exec": {"command": ["x"]}}, "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 8000}]}]}}),
            json!({"spec": {"containers": [{"name": "side", "image": "x"}], "volumes": [{"name": "data", "emptyDir": {}}]}}),
            json!({"spec": {"initContainers": [{"name": "agent", "resources": {"limits": {"memory": "1Gi"}}, "securityContext": {"runAsUser": 7}}, {"name": "init", "image": "x"}]}}),
            json!({"spec": {"terminationGracePeriodSeconds": 300, "securityContext": {"runAsUser": 1000}, "automountServiceAccountToken": true}}),
            json!({"spec": {"containers": [{"name": "bot", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}]}}),
        ] {
            assert_eq!(judged(patch.clone()), Ok(()), "{patch}");
        }
    }

    #[test]
    fn template_that_leads_past_the_gate() {
        let invalid = Reason::PodTemplateInvalid;
        refused(json!({"spec": {"hostNetwork": true}}), invalid, "whole node");
        refused(json!({"spec": {"shareProcessNamespace": true}}), invalid, "signal the agent");
        refused(json!({"spec": {"hostPID": true}}), invalid, "signal the agent");
        refused(
            json!({"spec": {"containers": [{"name": "bot", "env": [{"name": "TELEGRAM_API_ROOT", "value": "https://api.telegram.org"}]}]}}),
            invalid,
            "cannot be changed",
        );
        refused(
            json!({"spec": {"containers": [{"name": "bot", "env": [{"name": "TELOXIDE_API_URL", "$patch": "delete"}]}]}}),
            invalid,
            "cannot be changed",
        );
    }

    #[test]
    fn template_that_breaks_the_handover() {
        let invalid = Reason::PodTemplateInvalid;
        refused(
            json!({"spec": {"containers": [{"name": "bot", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}}),
            invalid,
            "hands over",
        );
        refused(json!({"spec": {"containers": [{"name": "bot", "lifecycle": null}]}}), invalid, "hands over");
        refused(json!({"spec": {"terminationGracePeriodSeconds": 30}}), Reason::GracePeriodTooShort, "at least 45");
        refused(json!({"spec": {"terminationGracePeriodSeconds": null}}), Reason::GracePeriodTooShort, "at least 45");
        refused(
            json!({"spec": {"initContainers": [{"name": "agent", "$patch": "delete"}]}}),
            invalid,
            "cannot be removed",
        );
        refused(json!({"spec": {"containers": [{"name": "bot", "$patch": "delete"}]}}), invalid, "cannot be removed");
    }

    #[test]
    fn template_that_touches_the_agent() {
        let invalid = Reason::PodTemplateInvalid;
        refused(json!({"spec": {"initContainers": [{"name": "agent", "image": "x"}]}}), invalid, "spec.agent.image");
        refused(json!({"spec": {"initContainers": [{"name": "agent", "args": ["x"]}]}}), invalid, "takes only");
        refused(
            json!({"spec": {"initContainers": [{"name": "agent", "env": [{"name": "POLLUX_LEASE_URI_FILE", "value": "x"}]}]}}),
            invalid,
            "takes only",
        );
        refused(
            json!({"spec": {"initContainers": [{"name": "agent", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}}),
            invalid,
            "takes only",
        );
    }

    #[test]
    fn template_that_takes_what_is_the_agents() {
        refused(
            json!({"spec": {"containers": [{"name": "bot", "ports": [{"containerPort": 8081}]}]}}),
            Reason::PortConflict,
            "8081",
        );
        refused(
            json!({"spec": {"containers": [{"name": "side", "ports": [{"containerPort": 9464}]}]}}),
            Reason::PortConflict,
            "9464",
        );
        let port = |port: u16| json!({"spec": {"containers": [{"name": "bot", "ports": [{"containerPort": port}]}]}});
        let agent = json!({"apiPort": 18081, "metricsPort": 19464, "apiURLEnv": ["BOT_API"]});
        for (wanted, free) in [(8081, true), (9464, true), (18081, false), (19464, false)] {
            assert_eq!(judged_with(agent.clone(), port(wanted)).is_ok(), free, "{wanted}");
        }
        let past = json!({"spec": {"containers": [{"name": "bot", "env": [{"name": "BOT_API", "value": "https://api.telegram.org"}]}]}});
        assert!(judged_with(agent, past).unwrap_err().to_string().contains("lead to the agent"));
        let invalid = Reason::PodTemplateInvalid;
        refused(
            json!({"spec": {"containers": [{"name": "side", "image": "x", "volumeMounts": [{"name": "pollux-lease", "mountPath": "/x"}]}]}}),
            invalid,
            "belong to the agent",
        );
        refused(
            json!({"spec": {"containers": [{"name": "bot", "volumeMounts": [{"name": "pollux-lease", "mountPath": "/x"}]}]}}),
            invalid,
            "cannot be changed",
        );
        refused(
            json!({"spec": {"volumes": [{"name": "pollux-token", "secret": {"secretName": "x"}}]}}),
            invalid,
            "use another name",
        );
        refused(json!({"spec": {"volumes": [{"name": "pollux-mine", "emptyDir": {}}]}}), invalid, "use another name");
    }

    #[test]
    fn template_that_hides_the_pods() {
        let invalid = Reason::PodTemplateInvalid;
        refused(json!({"metadata": {"labels": {"pollux.dev/bot": "x"}}}), invalid, "finds the pods by it");
        refused(json!({"metadata": {"labels": {"pollux.dev/revision": null}}}), invalid, "finds the pods by it");
        refused(json!({"spec": {"containers": [{"name": "bot", "image": "x"}]}}), invalid, "set spec.image instead");
        refused(json!({"kind": "PodTemplate"}), invalid, "only metadata and spec");
    }
}
