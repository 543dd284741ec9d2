//! The same bots as plain Deployments: what people have without Pollux.

use anyhow::Result;
use serde_json::{Value, json};

use crate::bot::Library;
use crate::world::{API_URL, BOTS, World, secret};

/// How a plain Deployment replaces its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Kubernetes' default: the new pod runs before the old one ends.
    RollingUpdate,
    /// The old pod ends before the new one starts.
    Recreate,
}

/// A bot as a plain Deployment.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) name: String,
    pub(crate) library: Library,
    pub(crate) strategy: Strategy,
    pub(crate) token: String,
    image: String,
}

// === impl Strategy ===

impl Strategy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RollingUpdate => "RollingUpdate",
            Self::Recreate => "Recreate",
        }
    }
}

// === impl Plain ===

impl Plain {
    /// Makes the bot known and starts its Deployment.
    pub(crate) async fn start(world: &World, library: Library, strategy: Strategy, id: u32) -> Result<Self> {
        let name = format!("{}-plain-{}", library.short(), strategy.name().to_lowercase());
        let token = format!("{id}:e2e-canary-{name}");
        world.emulator.add_bot(&token, &name.replace('-', "_")).await?;
        world.apply(&secret(&format!("{name}-token"), &token)).await?;
        let plain = Self { name, library, strategy, token, image: library.image(&world.ground) };
        plain.roll(world, 1).await?;
        Ok(plain)
    }

    /// Applies the Deployment at a version; another version is a rollout.
    pub(crate) async fn roll(&self, world: &World, version: u32) -> Result<()> {
        world.apply(&self.manifest(version)).await
    }

    fn manifest(&self, version: u32) -> Value {
        let labels = json!({"app": self.name});
        let strategy = match self.strategy {
            Strategy::RollingUpdate => {
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
            }
            Strategy::Recreate => json!({"type": "Recreate"}),
        };
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": BOTS},
            "spec": {
                "replicas": 1,
                "minReadySeconds": 1,
                "strategy": strategy,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "terminationGracePeriodSeconds": 45,
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [{
                            "name": "bot", "image": self.image, "imagePullPolicy": "IfNotPresent",
                            "env": [
                                {"name": "HANDLER_MS", "value": "100"},
                                {"name": "VERSION", "value": version.to_string()},
                                {"name": "TELEGRAM_API_ROOT", "value": API_URL},
                                {"name": "TELEGRAM_API_URL", "value": API_URL},
                                {"name": "TELOXIDE_API_URL", "value": API_URL},
                                {"name": "TELEGRAM_BOT_TOKEN_FILE", "value": "/run/pollux/token/token"},
                            ],
                            // As with Pollux, a pod is ready when its bot asks for updates: it has a connection (state 01).
                            "readinessProbe": {
                                "exec": {"command": ["sh", "-c", "case $(cat /proc/net/tcp /proc/net/tcp6) in *' 01 '*) ;; *) exit 1 ;; esac"]},
                                "periodSeconds": 1,
                            },
                            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "token", "mountPath": "/run/pollux/token", "readOnly": true}],
                        }],
                        "volumes": [{"name": "token", "secret": {"secretName": format!("{}-token", self.name)}}],
                    },
                },
            },
        })
    }
}
