//! A bot under test: its library, its TelegramBot resource, and what a person would read off it.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::wait::{Look, until};

/// A library whose bot is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Library {
    PythonTelegramBot,
    Aiogram,
    Grammy,
    Telegraf,
    Teloxide,
}

/// A TelegramBot in the cluster.
#[derive(Clone)]
pub(crate) struct Bot {
    pub(crate) name: String,
    pub(crate) library: Library,
    pub(crate) token: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    placement: Value,
    resources: Api<DynamicObject>,
}

/// The leader as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) epoch: i64,
}

// === impl Library ===

impl Library {
    pub(crate) const ALL: [Self; 5] =
        [Self::PythonTelegramBot, Self::Aiogram, Self::Grammy, Self::Telegraf, Self::Teloxide];

    /// The short name: of the folder under e2e/bots, and of the image.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::PythonTelegramBot => "ptb",
            Self::Aiogram => "aiogram",
            Self::Grammy => "grammy",
            Self::Telegraf => "telegraf",
            Self::Teloxide => "teloxide",
        }
    }

    pub(crate) fn image(self, ground: &Ground) -> String {
        format!("{}/e2e-bot-{}:dev", ground.images(), self.short())
    }
}

// === impl Bot ===

impl Bot {
    pub(crate) fn new(
        ground: &Ground,
        client: kube::Client,
        namespace: &str,
        name: &str,
        library: Library,
        token: &str,
    ) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("pollux.dev", "v1alpha1", "TelegramBot"));
        Self {
            name: name.to_owned(),
            library,
            token: token.to_owned(),
            namespace: namespace.to_owned(),
            image: library.image(ground),
            placement: ground.placement(name),
            resources: Api::namespaced_with(client, namespace, &kind),
        }
    }

    /// The bot's id, the part of its token before the colon.
    pub(crate) fn id(&self) -> Result<u64> {
        self.token.split(':').next().and_then(|id| id.parse().ok()).context("a token without an id")
    }

    /// The part of the spec that all bots here have in common.
    pub(crate) fn spec(&self, replicas: u32, api_url: &str) -> Value {
        json!({
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "replicas": replicas,
            "tokenSecretRef": {"name": format!("{}-token", self.name)},
            "botApi": {"url": api_url},
            "env": [{"name": "HANDLER_MS", "value": "100"}],
            "minReadySeconds": 1,
            "analysis": {"bakeSeconds": 2},
            "podTemplate": self.placement,
        })
    }

    /// Applies the resource, as `kubectl apply --server-side` would.
    pub(crate) async fn apply(&self, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "pollux.dev/v1alpha1",
            "kind": "TelegramBot",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        });
        let params = PatchParams::apply("e2e").force();
        self.resources
            .patch(&self.name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("applying {}", self.name))?;
        Ok(())
    }

    /// Changes some fields of the spec.
    pub(crate) async fn change(&self, spec: &Value) -> Result<()> {
        let params = PatchParams::default();
        self.resources
            .patch(&self.name, &params, &Patch::Merge(&json!({"spec": spec})))
            .await
            .with_context(|| format!("changing {}", self.name))?;
        Ok(())
    }

    pub(crate) async fn delete(&self) -> Result<()> {
        self.resources.delete(&self.name, &Default::default()).await?;
        Ok(())
    }

    async fn object(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.resources.get(&self.name).await?)?)
    }

    /// The status; an empty object while there is none.
    pub(crate) async fn status(&self) -> Result<Value> {
        Ok(self.object().await?.get("status").cloned().unwrap_or_else(|| json!({})))
    }

    /// Waits until the manifest as it is now runs completely and somebody leads.
    pub(crate) async fn wait_ready(&self, limit: Duration) -> Result<Leader> {
        until(&format!("{} to be ready", self.name), limit, || async {
            let object = self.object().await?;
            let generation = &object["metadata"]["generation"];
            let status = &object["status"];
            let ready = condition(status, "Ready").is_some_and(|c| c["status"] == "True");
            Ok(match leader(status) {
                Some(leader) if ready && status["observedGeneration"] == *generation => Look::Yes(leader),
                _ => Look::NotYet(format!("generation {generation}, status {status}")),
            })
        })
        .await
    }

    /// Waits until a condition has one of these reasons, and gives its message.
    pub(crate) async fn wait_reason(&self, kind: &str, reasons: &[&str], limit: Duration) -> Result<String> {
        until(&format!("{}'s condition {kind} to be {reasons:?}", self.name), limit, || async {
            let status = self.status().await?;
            Ok(match condition(&status, kind) {
                Some(c) if reasons.iter().any(|reason| c["reason"] == *reason) => {
                    Look::Yes(c["message"].as_str().unwrap_or_default().to_owned())
                }
                other => Look::NotYet(format!("{other:?}")),
            })
        })
        .await
    }
}

/// The condition of a type in a status.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// The leader that a status names.
pub(crate) fn leader(status: &Value) -> Option<Leader> {
    let leader = status.get("leader")?;
    Some(Leader {
        pod: leader["podName"].as_str()?.to_owned(),
        node: leader["nodeName"].as_str().unwrap_or_default().to_owned(),
        epoch: leader["epoch"].as_i64()?,
    })
}
