//! What a revision is: one set of the user's choices that make pods.
//!
//! A revision's *name* is a hash over those choices and nothing else: neither what the operator picks (its agent image, its
//! probes) nor what changes without new pods (replicas, hot settings, deadlines). So an upgrade of the operator makes no new
//! revision, and a manifest that goes back to earlier choices goes back to the earlier revision.
//!
//! The hash is over canonical JSON (keys sorted, absent things left out) behind the prefix `v1:`. A field that joins the
//! choices later must be left out while it has its default, otherwise every bot of the world would restart with that release.
//! A golden test pins the name of a known manifest.
//!
//! A revision's *number* orders revisions for people and is bumped when one comes back. It is kept in the ControllerRevision
//! and never in a pod template.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use pollux_api::TelegramBotSpec;
use pollux_api::names::label;
use pollux_api::spec::{Agent, Handover};
use pollux_api::words::Adapter;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A revision that is stored in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Name of the revision (not of the ControllerRevision).
    pub(crate) name: String,
    /// Its number.
    pub(crate) number: i64,
    /// The bot's image in it.
    pub(crate) image: String,
    /// The rendered pod template, as it was first applied.
    pub(crate) template: Value,
    /// What came of its trial under this number; `None` before that.
    pub(crate) verdict: Option<Verdict>,
    /// The requests about it that were answered, by annotation.
    pub(crate) answered: BTreeMap<String, String>,
    /// Its migration is done.
    pub(crate) migrated: bool,
    /// When it was first stored.
    pub(crate) created: Option<Time>,
}

/// What came of a revision's trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It is what a rollout that fails comes back to.
    Passed,
    /// It leads no more.
    Failed {
        /// Why.
        why: String,
        /// It stays where it is until a person decides.
        #[serde(default)]
        waits: bool,
    },
}

/// The name of the revision that a spec asks for, and the last restart that somebody asked for.
pub(crate) fn name(spec: &TelegramBotSpec, restarted_at: Option<&str>) -> String {
    let mut choices = choices(spec);
    if let Some(restarted_at) = restarted_at {
        choices["restartedAt"] = json!(restarted_at);
    }
    let text = format!("v1:{}", canonical(choices));
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// Name of the ControllerRevision of a bot's revision.
pub(crate) fn object_name(bot: &str, revision: &str) -> String {
    format!("{bot}-{revision}")
}

/// The choices that make pods. Everything of the spec is named, so that a new field cannot be forgotten here.
fn choices(spec: &TelegramBotSpec) -> Value {
    let TelegramBotSpec {
        image,
        image_pull_policy,
        image_pull_secrets,
        command,
        args,
        env,
        env_from,
        resources,
        service_account_name,
        pod_template,
        token_secret_ref,
        bot_api,
        lease,
        handover: Handover { drain_timeout_seconds, quiet_seconds: _, ordering: _ },
        agent,
        // These make no pods: the scale, the Deployment's own pace, and hot settings (all of polling but the adapter).
        replicas: _,
        suspend: _,
        paused: _,
        polling,
        migration,
        strategy: _,
        analysis: _,
        on_failure: _,
        min_ready_seconds: _,
        progress_deadline_seconds: _,
    } = spec;
    let mut chosen = Map::new();
    let mut put = |key: &str, value: Value| {
        if !is_absent(&value) {
            chosen.insert(key.to_owned(), value);
        }
    };
    put("image", json!(image));
    put("imagePullPolicy", plain(image_pull_policy));
    put("imagePullSecrets", plain(image_pull_secrets));
    put("command", plain(command));
    put("args", plain(args));
    put("env", plain(env));
    put("envFrom", plain(env_from));
    put("resources", plain(resources));
    put("serviceAccountName", plain(service_account_name));
    // `podTemplate: {spec: {}}` chooses nothing.
    put(
        "podTemplate",
        pod_template
            .iter()
            .flatten()
            .filter(|(_, part)| !is_absent(part))
            .map(|(key, part)| (key.clone(), part.clone()))
            .collect(),
    );
    put("tokenSecretRef", plain(token_secret_ref));
    put("botApi", plain(bot_api));
    put("lease.database", json!(lease.database));
    put("lease.credentialsSecretRef", plain(&lease.credentials_secret_ref));
    put("handover.drainTimeoutSeconds", json!(drain_timeout_seconds));
    put("agent", chosen_agent(agent));
    put("migration", plain(migration));
    if polling.adapter != Adapter::default() {
        put("polling.adapter", json!(polling.adapter));
    }
    Value::Object(chosen)
}

/// What joined the agent's fields after names of revisions were given is left out while it has its default.
fn chosen_agent(agent: &Agent) -> Value {
    let (mut chosen, default) = (plain(agent), plain(&Agent::default()));
    if let Some(fields) = chosen.as_object_mut() {
        fields.retain(|field, value| !["apiPort", "metricsPort"].contains(&field.as_str()) || default[field] != *value);
    }
    chosen
}

fn plain<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a field of the resource is JSON")
}

fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// JSON with sorted keys.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        other => other,
    }
}

// === impl Stored ===

impl Stored {
    /// A revision that nobody has seen before.
    pub(crate) fn new(name: &str, number: i64, image: &str, template: Value) -> Self {
        let (name, image) = (name.to_owned(), image.to_owned());
        Self { name, number, image, template, verdict: None, answered: BTreeMap::new(), migrated: false, created: None }
    }

    /// The same under another number, to be tried anew.
    pub(crate) fn again(self, number: i64) -> Self {
        Self { number, verdict: None, ..self }
    }

    /// Whether it passed its trial.
    pub(crate) fn passed(&self) -> bool {
        self.verdict == Some(Verdict::Passed)
    }

    /// Why it did not pass.
    pub(crate) fn failed(&self) -> Option<&str> {
        match &self.verdict {
            Some(Verdict::Failed { why, .. }) => Some(why),
            _ => None,
        }
    }

    /// Reads a ControllerRevision; one that was not written by Pollux, or was spoilt, is none.
    pub(crate) fn read(object: &ControllerRevision) -> Option<Self> {
        let data = &object.data.as_ref()?.0;
        let annotation = |key: &str| object.annotations().get(key);
        Some(Self {
            verdict: annotation(label::VERDICT).and_then(|text| serde_json::from_str(text).ok()),
            answered: annotation(label::ANSWERED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            migrated: annotation(label::MIGRATED).is_some_and(|text| text == "true"),
            created: object.creation_timestamp(),
            name: object.labels().get(label::REVISION)?.clone(),
            number: object.revision,
            image: data.get("image")?.as_str()?.to_owned(),
            template: data.get("template").filter(|template| template.is_object())?.clone(),
        })
    }

    /// What [`Self::read`] reads. It cannot be changed.
    pub(crate) fn data(&self) -> Value {
        json!({"image": self.image, "template": self.template})
    }

    /// And what can.
    pub(crate) fn annotations(&self) -> Map<String, Value> {
        let text = |value: Value| Value::String(value.to_string());
        let verdict = self.verdict.as_ref().map(|verdict| (label::VERDICT.to_owned(), text(json!(verdict))));
        let answered = (!self.answered.is_empty()).then(|| (label::ANSWERED.to_owned(), text(json!(self.answered))));
        let migrated = self.migrated.then(|| (label::MIGRATED.to_owned(), json!("true")));
        verdict.into_iter().chain(answered).chain(migrated).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(spec: &TelegramBotSpec) -> String {
        super::name(spec, None)
    }

    fn spec(patch: Value) -> TelegramBotSpec {
        let mut spec = json!({"image": "ghcr.io/acme/echo-bot:1.0.0", "tokenSecretRef": {"name": "echo-token"}});
        spec.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn names_never_change_between_releases() {
        // Golden: another name here means that every bot of every user restarts with this release.
        assert_eq!(name(&spec(json!({}))), "35a090a081");
        let full = json!({
            "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "registry"}], "command": ["bot"], "args": ["--fast"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}], "resources": {"limits": {"memory": "64Mi"}},
            "serviceAccountName": "me", "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}},
            "botApi": {"url": "https://bot-api", "caConfigMapRef": {"name": "ca"}},
            "lease": {"database": "eu", "credentialsSecretRef": {"name": "pg-app"}},
            "handover": {"drainTimeoutSeconds": 5}, "agent": {"image": "agent:1", "logLevel": "debug"},
        });
        assert_eq!(name(&spec(full)), "b3287cc47f");
    }

    #[test]
    fn what_makes_no_pods_makes_no_revision() {
        let before = name(&spec(json!({})));
        for patch in [
            json!({"replicas": 5}),
            json!({"suspend": true}),
            json!({"polling": {"longPollTimeoutSeconds": 7}}),
            json!({"polling": {"adapter": "Proxy"}}),
            json!({"polling": {"delivery": "Settled", "settleSeconds": 5, "maxBatch": 3, "maxUnsettled": 4}}),
            json!({"polling": {"deafAfterSeconds": 90, "pendingUpdates": "ColdStart"}}),
            json!({"handover": {"quietSeconds": 5, "ordering": "Fast"}}),
            json!({"lease": {"durationSeconds": 5}}),
            json!({"minReadySeconds": 9}),
            json!({"progressDeadlineSeconds": 99}),
            json!({"strategy": {"type": "RollingUpdate"}}),
            json!({"strategy": {"type": "Recreate"}}),
            json!({"paused": true}),
            json!({"analysis": {"bakeSeconds": 1, "maxContainerRestarts": 2}}),
            json!({"onFailure": "Pause"}),
            json!({"podTemplate": {"metadata": {}, "spec": {}}}),
            json!({"agent": {"apiPort": 8081, "metricsPort": 9464, "apiURLEnv": []}}),
        ] {
            assert_eq!(name(&spec(patch.clone())), before, "{patch}");
        }
    }

    #[test]
    fn what_makes_pods_makes_a_revision() {
        let mut seen = std::collections::BTreeSet::from([name(&spec(json!({})))]);
        for patch in [
            json!({"image": "other"}),
            json!({"imagePullPolicy": "Never"}),
            json!({"command": ["x"]}),
            json!({"args": ["x"]}),
            json!({"env": [{"name": "A", "value": "1"}]}),
            json!({"envFrom": [{"secretRef": {"name": "s"}}]}),
            json!({"resources": {"limits": {"cpu": "1"}}}),
            json!({"serviceAccountName": "x"}),
            json!({"podTemplate": {"spec": {"hostAliases": []}}}),
            json!({"tokenSecretRef": {"name": "other"}}),
            json!({"tokenSecretRef": {"name": "echo-token", "key": "other"}}),
            json!({"botApi": {"url": "http://x"}}),
            json!({"lease": {"database": "x"}}),
            json!({"lease": {"credentialsSecretRef": {"name": "x"}}}),
            json!({"handover": {"drainTimeoutSeconds": 1}}),
            json!({"agent": {"logLevel": "debug"}}),
            json!({"agent": {"image": "x"}}),
            json!({"agent": {"resources": {"limits": {"cpu": "1"}}}}),
            json!({"agent": {"apiURLEnv": ["BOT_API"]}}),
            json!({"migration": {"command": ["migrate"]}}),
            json!({"agent": {"apiPort": 18081}}),
            json!({"agent": {"metricsPort": 19464}}),
            json!({"agent": {"proxyURL": "http://proxy:3128"}}),
            json!({"polling": {"adapter": "Process"}}),
        ] {
            assert!(seen.insert(name(&spec(patch.clone()))), "{patch}");
        }
    }

    #[test]
    fn a_restart_is_a_revision_of_its_own() {
        let spec = spec(json!({}));
        let names = [None, Some("2026-12-01T10:00:00Z"), Some("2026-12-01T11:00:00Z")].map(|at| super::name(&spec, at));
        assert_eq!(std::collections::BTreeSet::from(names).len(), 3);
    }

    #[test]
    fn order_of_keys_means_nothing() {
        let one = json!({"podTemplate": {"spec": {"a": 1, "b": {"c": 2, "d": 3}}}});
        let other = json!({"podTemplate": {"spec": {"b": {"d": 3, "c": 2}, "a": 1}}});
        assert_eq!(name(&spec(one)), name(&spec(other)));
    }

    #[test]
    fn what_is_stored_is_what_is_read() {
        let new = Stored::new("abc", 3, "i", json!({"spec": {"z": 1, "a": 2}}));
        let failed = Verdict::Failed { why: "it \"leaks\"".into(), waits: true };
        let answered = BTreeMap::from([("pollux.dev/retry".to_owned(), "abc@2".to_owned())]);
        for stored in [
            Stored { verdict: Some(Verdict::Passed), ..new.clone() },
            Stored { verdict: Some(failed), answered, migrated: true, ..new.clone() },
            new,
        ] {
            let object: ControllerRevision = serde_json::from_value(json!({
                "metadata": {"name": "echo-abc", "labels": {"pollux.dev/revision": "abc"}, "annotations": stored.annotations()},
                "revision": 3, "data": stored.data(),
            }))
            .unwrap();
            assert_eq!(Stored::read(&object), Some(stored));
        }
    }
}
