//! Every field of the resource does what it says. What it did is read from the pod, from the process or from the emulator,
//! never from the status and never from what was meant to be applied.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pollux_testbed::Pod as PodName;
use serde_json::json;

use crate::bot::{Bot, Library};
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, World, blocking};

const PATIENCE: Duration = Duration::from_secs(120);

/// Changes every field of one bot.
pub(crate) async fn every_field(world: &World) -> Result<()> {
    world.ground.breakable()?;
    let bot = world.bot("fields", Library::Grammy, 1_000_021).await?;
    bot.apply(&bot.spec(1, API_URL)).await?;
    bot.wait_ready(PATIENCE).await?;
    prepare(world).await?;
    in_the_template(world, &bot).await?;
    hot(world, &bot).await?;
    scale_and_suspend(world, &bot).await?;
    agent_image(world, &bot).await?;
    bot.delete().await?;
    no_children(world, &bot).await
}

/// What the changed fields refer to.
async fn prepare(world: &World) -> Result<()> {
    let metadata = |name: &str| json!({"name": name, "namespace": BOTS});
    world
        .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("fields-env"), "data": {"FROM_MAP": "seen"}}))
        .await?;
    world.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("fields-account")})).await?;
    let uri =
        world.run("kubectl", &["get", "secret", "-n", BOTS, "pollux-lease", "-o", "jsonpath={.data.uri}"]).await?;
    world
        .apply(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("fields-lease"), "data": {"dsn": uri}}),
        )
        .await?;
    let token =
        world.run("kubectl", &["get", "secret", "-n", BOTS, "fields-token", "-o", "jsonpath={.data.token}"]).await?;
    world
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("fields-other-token"), "data": {"other": token}}))
        .await
}

async fn in_the_template(world: &World, bot: &Bot) -> Result<()> {
    bot.change(&json!({
        "imagePullPolicy": "Never",
        "imagePullSecrets": [{"name": "fields-registry"}],
        "command": ["node"],
        "args": ["bot.mjs", "--seen-by-the-process"],
        "env": [{"name": "HANDLER_MS", "value": "50"}, {"name": "FROM_SPEC", "value": "seen"}],
        "envFrom": [{"configMapRef": {"name": "fields-env"}}],
        "resources": {"limits": {"memory": "201Mi"}},
        "serviceAccountName": "fields-account",
        "podTemplate": {"metadata": {"labels": {"fields": "seen"}}, "spec": {"hostAliases": [{"ip": "127.0.0.1", "hostnames": ["fields.test"]}]}},
        "tokenSecretRef": {"name": "fields-other-token", "key": "other"},
        "lease": {"credentialsSecretRef": {"name": "fields-lease", "key": "dsn"}},
        "handover": {"drainTimeoutSeconds": 7},
        "minReadySeconds": 2,
        "progressDeadlineSeconds": 77,
        "agent": {
            "logLevel": "debug", "resources": {"limits": {"memory": "63Mi"}},
            "apiURLEnv": ["FIELDS_API"], "apiPort": 18081, "metricsPort": 19464,
        },
    }))
    .await?;
    bot.wait_ready(PATIENCE).await?;
    world.deployment_rolled_out(BOTS, &bot.name, PATIENCE).await?;
    let pod = only_pod(world, bot).await?;
    let pod_name = pod.metadata.name.context("a pod without a name")?;
    let spec = pod.spec.context("a pod without a spec")?;
    let labels = pod.metadata.labels.unwrap_or_default();
    ensure!(labels.get("fields").is_some_and(|v| v == "seen"), "podTemplate: the pod's labels are {labels:?}");
    ensure!(spec.host_aliases.as_ref().is_some_and(|a| a.len() == 1), "podTemplate: no host alias");
    ensure!(
        spec.termination_grace_period_seconds == Some(32),
        "grace period {:?}, expected 7 + 15 + 10",
        spec.termination_grace_period_seconds
    );
    ensure!(spec.service_account_name.as_deref() == Some("fields-account"), "account {:?}", spec.service_account_name);
    ensure!(
        spec.image_pull_secrets.as_ref().is_some_and(|s| s.iter().any(|s| s.name == "fields-registry")),
        "imagePullSecrets"
    );
    let container = container(&spec, "bot")?;
    ensure!(
        container.image_pull_policy.as_deref() == Some("Never"),
        "imagePullPolicy {:?}",
        container.image_pull_policy
    );

    let name = PodName::new(BOTS, &pod_name);
    let (commandline, environ) = process(world, &name, "bot").await?;
    ensure!(
        commandline.ends_with(&["node".into(), "bot.mjs".into(), "--seen-by-the-process".into()]),
        "command and args: {commandline:?}"
    );
    // The pod is ready, so its bot was served at that port and its agent probed at the other one.
    let gate = "http://127.0.0.1:18081";
    let addresses = ["FIELDS_API", "TELEGRAM_API_ROOT"].map(|name| format!("{name}={gate}"));
    for wanted in
        ["FROM_SPEC=seen", "FROM_MAP=seen", "HANDLER_MS=50"].into_iter().chain(addresses.iter().map(String::as_str))
    {
        ensure!(environ.iter().any(|e| e == wanted), "{wanted} is not in the process's environment");
    }
    ensure!(!environ.iter().any(|e| e.contains("e2e-canary")), "the token is in the bot's environment");
    let probed = self::container(&spec, "agent")?.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
    ensure!(probed.is_some_and(|get| get.port == IntOrString::Int(19464)), "metricsPort: the kubelet asks {probed:?}");
    for (container, limit) in [("bot", 201_u64 << 20), ("agent", 63 << 20)] {
        let found = memory_limit(world, &name, container).await?;
        ensure!(found == limit, "memory limit of {container}: {found}, expected {limit}");
    }
    let agent = world.run("kubectl", &["logs", "-n", BOTS, &pod_name, "-c", "agent"]).await?;
    ensure!(agent.contains("DEBUG"), "logLevel debug, but the agent's log has no such line");
    ensure!(!agent.contains("e2e-canary"), "the token is in the agent's log");
    Ok(())
}

async fn hot(world: &World, bot: &Bot) -> Result<()> {
    let before = bot.wait_ready(PATIENCE).await?;
    bot.change(&json!({
        "polling": {
            "longPollTimeoutSeconds": 3, "maxBatch": 7, "maxUnsettled": 50, "delivery": "Settled", "settleSeconds": 2,
            "deafAfterSeconds": 90, "pendingUpdates": "ColdStart",
        },
        "lease": {"durationSeconds": 6},
        "handover": {"quietSeconds": 3, "ordering": "Fast"},
    }))
    .await?;
    until("polls of at most 3 s", PATIENCE, || async {
        let polls = world.emulator.polls(&bot.token).await?;
        let last: Vec<i32> = polls.iter().rev().take(2).map(|poll| poll.timeout).collect();
        Ok(if last.iter().all(|t| *t <= 3) { Look::Yes(()) } else { Look::NotYet(format!("{last:?}")) })
    })
    .await?;
    until("polls for at most 7 updates", PATIENCE, || async {
        let polls = world.emulator.polls(&bot.token).await?;
        let last = polls.last().map(|poll| poll.limit);
        Ok(if last == Some(7) { Look::Yes(()) } else { Look::NotYet(format!("{last:?}")) })
    })
    .await?;
    // What these do shows in gate tests and in the matrix; here it shows that they arrive.
    let words = ["Settled", "ColdStart", "Fast", "max_unsettled: Some(50)", "quiet: Some(3s)", "deaf_after: Some(90s)"];
    until("an agent that says all settings", PATIENCE, || async {
        let log = world.run("kubectl", &["logs", "-n", BOTS, &before.pod, "-c", "agent"]).await?;
        let told = log.lines().any(|line| line.contains("HotSettings") && words.iter().all(|word| line.contains(word)));
        Ok(if told { Look::Yes(()) } else { Look::NotYet("not yet".to_owned()) })
    })
    .await?;
    until("a lease of 6 s", PATIENCE, || async {
        let ttl = world.psql("select ttl_ms / 1000 from pollux.lease where bot_id = 1000021").await?;
        Ok(if ttl.trim() == "6" { Look::Yes(()) } else { Look::NotYet(ttl) })
    })
    .await?;
    let after = bot.wait_ready(PATIENCE).await?;
    ensure!(
        (&before.pod, before.epoch) == (&after.pod, after.epoch),
        "a hot field changed the leader: {before:?} to {after:?}"
    );
    Ok(())
}

async fn scale_and_suspend(world: &World, bot: &Bot) -> Result<()> {
    world.run("kubectl", &["scale", "-n", BOTS, "telegrambot/fields", "--replicas=2"]).await?;
    pods(world, bot, 2).await?;
    bot.wait_ready(PATIENCE).await?;
    bot.change(&json!({"suspend": true})).await?;
    pods(world, bot, 0).await?;
    let holder = world.psql("select count(*) from pollux.lease where bot_id = 1000021 and holder is null").await?;
    ensure!(holder.trim() == "1", "suspended, but the lease is held");
    bot.change(&json!({"suspend": false, "replicas": 1})).await?;
    pods(world, bot, 1).await?;
    bot.wait_ready(PATIENCE).await.map(drop)
}

/// The image of the agent: one that does not exist is named, and the old pod goes on.
async fn agent_image(world: &World, bot: &Bot) -> Result<()> {
    let before = bot.wait_ready(PATIENCE).await?;
    bot.change(&json!({"agent": {"image": "localhost:9/no-such-agent:dev"}})).await?;
    let message =
        bot.wait_reason("Progressing", &["ErrImagePull", "ImagePullBackOff"], Duration::from_secs(30)).await?;
    ensure!(message.contains("no-such-agent"), "the message does not name the image: {message}");
    bot.change(&json!({"agent": {"image": null}})).await?;
    let after = bot.wait_ready(PATIENCE).await?;
    ensure!(before.pod == after.pod, "a bad agent image changed the leader");
    pods(world, bot, 1).await
}

async fn no_children(world: &World, bot: &Bot) -> Result<()> {
    until("the children to be gone", PATIENCE, || async {
        let selector = format!("pollux.dev/bot={}", bot.name);
        let kinds = "deployments,pods,serviceaccounts,poddisruptionbudgets,controllerrevisions";
        let left = world.run("kubectl", &["get", kinds, "-n", BOTS, "-l", &selector, "-o", "name"]).await?;
        Ok(if left.trim().is_empty() { Look::Yes(()) } else { Look::NotYet(left) })
    })
    .await
}

async fn pods(world: &World, bot: &Bot, count: usize) -> Result<()> {
    until(&format!("{count} pods of {}", bot.name), PATIENCE, || async {
        let pods = world.pods(bot).await?.len();
        Ok(if pods == count { Look::Yes(()) } else { Look::NotYet(format!("{pods} pods")) })
    })
    .await
}

async fn only_pod(world: &World, bot: &Bot) -> Result<Pod> {
    let mut pods = world.pods(bot).await?;
    ensure!(pods.len() == 1, "{} pods", pods.len());
    pods.pop().context("no pod")
}

fn container<'a>(spec: &'a PodSpec, name: &str) -> Result<&'a Container> {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|c| c.name == name)
        .with_context(|| format!("no container {name}"))
}

/// Command line and environment of a container's first process.
async fn process(world: &World, pod: &PodName, container: &'static str) -> Result<(Vec<String>, Vec<String>)> {
    let pid = first_pid(world, pod, container).await?;
    let read = |file: &str| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        Ok(text.split_terminator('\0').map(str::to_owned).collect())
    };
    Ok((read("cmdline")?, read("environ")?))
}

async fn first_pid(world: &World, pod: &PodName, container: &'static str) -> Result<i32> {
    let (cluster, pod) = (world.ground.breakable()?, pod.clone());
    let pids = blocking(move || cluster.processes(&pod, Some(container))).await?;
    pids.into_iter().min().context("the container has no process")
}

/// The memory limit that the kernel enforces on a container, in bytes.
async fn memory_limit(world: &World, pod: &PodName, container: &'static str) -> Result<u64> {
    let pid = first_pid(world, pod, container).await?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let (folder, file) = cgroups
        .lines()
        .find_map(|line| {
            let mut parts = line.splitn(3, ':');
            match (parts.next()?, parts.next()?, parts.next()?) {
                (_, "memory", path) => Some((format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes")),
                ("0", "", path) if !cgroups.contains(":memory:") => {
                    Some((format!("/sys/fs/cgroup{path}"), "memory.max"))
                }
                _ => None,
            }
        })
        .context("no memory cgroup")?;
    Ok(std::fs::read_to_string(format!("{folder}/{file}"))?.trim().parse()?)
}
