//! The pod template of a bot, as Pollux makes it before `spec.podTemplate` is merged over it.
//!
//! ```text
//! initContainers: agent  (restartPolicy Always: starts before the bot and stops after it)
//!                        postStart  wait-ready: the bot starts when the gate listens and the hook can be executed
//! containers:     bot    (the user's image, unchanged)
//!                        preStop    drain: hands over before Kubernetes signals the bot
//! ```
//!
//! With `polling.adapter: Process` the bot's container runs the copy of the agent that is there for the hook, which runs the
//! user's command while the pod leads; it is there because the bot's container starts after the agent's postStart.
//!
//! The blocking hook sits on the bot's container because a sidecar's own preStop runs when the pod's termination begins,
//! beside the bot's, and does not keep the bot alive. Readiness means "could lead at once" and is asked of the agent; nothing
//! here depends on who leads. Everything passes Pod Security "restricted".

use pollux_api::TelegramBotSpec;
use pollux_api::names::{LEASE_SECRET, LEASE_SECRET_KEY, label, pod};
use pollux_api::spec::Agent;
use pollux_api::words::Adapter;
use serde_json::{Map, Value, json};

/// What a template is made of besides the spec.
#[derive(Clone, Debug)]
pub(crate) struct Context<'a> {
    /// Identity of this cluster.
    pub(crate) cluster: &'a str,
    /// Namespace of the bot.
    pub(crate) namespace: &'a str,
    /// Name of the bot.
    pub(crate) bot: &'a str,
    /// Name of the revision.
    pub(crate) revision: &'a str,
    /// The agent's image unless the spec names one.
    pub(crate) agent_image: &'a str,
    /// The ServiceAccount unless the spec names one.
    pub(crate) service_account: &'a str,
}

/// Labels of everything that belongs to a bot.
pub(crate) fn labels(bot: &str) -> Map<String, Value> {
    [
        (label::NAME, label::NAME_VALUE),
        (label::INSTANCE, bot),
        (label::MANAGED_BY, label::MANAGED_BY_VALUE),
        (label::BOT, bot),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .collect()
}

/// Labels by which a bot's pods are found.
pub(crate) fn selector(bot: &str) -> Map<String, Value> {
    [(label::NAME, label::NAME_VALUE), (label::BOT, bot)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect()
}

/// The generated template.
pub(crate) fn render(spec: &TelegramBotSpec, context: &Context<'_>) -> Map<String, Value> {
    let mut labels = labels(context.bot);
    labels.insert(label::REVISION.to_owned(), json!(context.revision));
    let template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {
                "kubectl.kubernetes.io/default-container": pod::BOT_CONTAINER,
                label::LEASE_DATABASE: spec.lease.database,
            },
        },
        "spec": pod_spec(spec, context),
    });
    let Value::Object(template) = without_absent(template) else { unreachable!("an object stays one") };
    template
}

fn pod_spec(spec: &TelegramBotSpec, context: &Context<'_>) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "serviceAccountName": spec.service_account_name.as_deref().unwrap_or(context.service_account),
        "imagePullSecrets": spec.image_pull_secrets,
        "terminationGracePeriodSeconds": spec.handover.grace_period_seconds(),
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        // Preferred, never required: on a cluster of one node a surge must still find room.
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector(context.bot)}},
        }]}},
        "initContainers": [agent(spec, context)],
        "containers": [bot(spec)],
        "volumes": volumes(spec),
    })
}

fn agent(spec: &TelegramBotSpec, context: &Context<'_>) -> Value {
    let mut env = vec![
        json!({"name": "POLLUX_CLUSTER", "value": context.cluster}),
        json!({"name": "POLLUX_NAMESPACE", "value": context.namespace}),
        json!({"name": "POLLUX_BOT", "value": context.bot}),
        json!({"name": "POLLUX_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "POLLUX_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}),
        json!({"name": "POLLUX_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
        json!({"name": "POLLUX_REVISION", "value": context.revision}),
        json!({"name": "POLLUX_API_URL", "value": spec.bot_api.url}),
        json!({"name": "POLLUX_DRAIN_TIMEOUT_SECONDS", "value": spec.handover.drain_timeout_seconds.to_string()}),
        json!({"name": "POLLUX_GRACE_PERIOD_SECONDS", "value": grace_period(spec).to_string()}),
        json!({"name": "POLLUX_LOG", "value": spec.agent.log_level.as_str()}),
    ];
    let mut mounts = vec![
        json!({"name": pod::SHARED_VOLUME, "mountPath": pod::SHARED_DIR}),
        json!({"name": pod::TOKEN_VOLUME, "mountPath": pod::TOKEN_DIR, "readOnly": true}),
        json!({"name": pod::LEASE_VOLUME, "mountPath": pod::LEASE_DIR, "readOnly": true}),
    ];
    if spec.bot_api.ca_config_map_ref.is_some() {
        env.push(json!({"name": "POLLUX_API_CA_FILE", "value": pod::CA_FILE}));
        mounts.push(json!({"name": pod::CA_VOLUME, "mountPath": pod::CA_DIR, "readOnly": true}));
    }
    let Agent { api_port, metrics_port, proxy_url, .. } = &spec.agent;
    if *api_port != pod::GATE_PORT {
        env.push(json!({"name": "POLLUX_LISTEN", "value": format!("127.0.0.1:{api_port}")}));
    }
    if *metrics_port != pod::HEALTH_PORT {
        env.push(json!({"name": "POLLUX_HEALTH_LISTEN", "value": format!("0.0.0.0:{metrics_port}")}));
    }
    if let Some(url) = proxy_url {
        env.push(json!({"name": "POLLUX_PROXY_URL", "value": url}));
    }
    // Left out otherwise: agents of earlier releases do not know it.
    if spec.polling.adapter == Adapter::Process {
        env.push(json!({"name": "POLLUX_ADAPTER", "value": "process"}));
    }
    let probe = |path: &str, period: i32, failures: i32| json!({"httpGet": {"path": path, "port": metrics_port}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures});
    json!({
        "name": pod::AGENT_CONTAINER,
        "image": spec.agent.image.as_deref().unwrap_or(context.agent_image),
        "args": ["run"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "pollux-health", "containerPort": metrics_port}],
        "volumeMounts": mounts,
        "lifecycle": {"postStart": {"exec": {"command": ["/pollux-agent", "wait-ready"]}}},
        "readinessProbe": probe("/readyz", 1, 3),
        "livenessProbe": probe("/livez", 10, 3),
        "resources": spec.agent.resources.as_ref().map_or_else(
            || json!({"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}),
            |resources| json!(resources),
        ),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "capabilities": {"drop": ["ALL"]},
        },
    })
}

/// What the pod will have: the podTemplate may make it longer (shorter is refused).
fn grace_period(spec: &TelegramBotSpec) -> i64 {
    let wanted =
        spec.pod_template.as_ref().and_then(|patch| patch.get("spec")?.get("terminationGracePeriodSeconds")?.as_i64());
    wanted.unwrap_or_else(|| spec.handover.grace_period_seconds().into())
}

fn bot(spec: &TelegramBotSpec) -> Value {
    // Pollux's variables come first, so that the user's can refer to them as $(TELEGRAM_API_ROOT).
    let gate = pod::gate_url(spec.agent.api_port);
    let names = pod::API_URL_ENV.into_iter().chain(spec.agent.api_url_env.iter().map(String::as_str));
    let mut env: Vec<Value> = names.map(|name| json!({"name": name, "value": gate})).collect();
    env.push(json!({"name": pod::TOKEN_FILE_ENV, "value": pod::TOKEN_FILE}));
    env.extend(spec.env.iter().map(|variable| json!(variable)));
    json!({
        "name": pod::BOT_CONTAINER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": command(spec),
        "args": spec.args,
        "env": env,
        "envFrom": spec.env_from,
        "resources": spec.resources,
        "volumeMounts": [
            {"name": pod::SHARED_VOLUME, "mountPath": pod::SHARED_DIR, "readOnly": true},
            {"name": pod::TOKEN_VOLUME, "mountPath": pod::TOKEN_DIR, "readOnly": true},
        ],
        "lifecycle": {"preStop": {"exec": {"command": [pod::HOOK, "drain"]}}},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// What the bot's container runs; the image's entry point if it is empty.
fn command(spec: &TelegramBotSpec) -> Vec<&str> {
    let supervisor: &[&str] = match spec.polling.adapter {
        Adapter::Proxy => &[],
        Adapter::Process => &[pod::HOOK, "supervise", "--"],
    };
    supervisor.iter().copied().chain(spec.command.iter().map(String::as_str)).collect()
}

fn volumes(spec: &TelegramBotSpec) -> Vec<Value> {
    let (lease, key) = spec
        .lease
        .credentials_secret_ref
        .as_ref()
        .map_or((LEASE_SECRET, LEASE_SECRET_KEY), |secret| (secret.name.as_str(), secret.key.as_str()));
    let token = &spec.token_secret_ref;
    let mut volumes = vec![
        json!({"name": pod::SHARED_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}),
        json!({"name": pod::TOKEN_VOLUME, "secret": {"secretName": token.name, "items": [{"key": token.key, "path": "token"}]}}),
        json!({"name": pod::LEASE_VOLUME, "secret": {"secretName": lease, "items": [{"key": key, "path": "uri"}]}}),
    ];
    if let Some(ca) = &spec.bot_api.ca_config_map_ref {
        volumes.push(json!({"name": pod::CA_VOLUME, "configMap": {"name": ca.name, "items": [{"key": ca.key, "path": "ca.crt"}]}}));
    }
    volumes
}

/// Leaves out what is not set: nulls and empty lists would be owned under server-side apply.
fn without_absent(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, without_absent(value)))
                .filter(|(_, value)| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_absent).collect()),
        other => other,
    }
}
