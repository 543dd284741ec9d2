//! What people do to bots on purpose: nothing may be lost, answered twice or refused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use pollux_botapi::{Load, UpdateRecord};
use pollux_testbed::Pod;
use serde_json::json;
use tokio::task::JoinSet;

use super::{ROLLOUT, Run, answered_at_least, load, restarts, version};
use crate::bot::{Bot, Library, leader};
use crate::report::{Rollout, Told};
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, OPERATOR, World, blocking, repository};
use crate::{requests, versions};

// === impl Run ===

impl Run {
    /// A new version of every bot, all at once: each costs exactly one handover, to the new version.
    pub(crate) async fn roll_all(&mut self) -> Result<()> {
        self.version += 1;
        let version = self.version;
        let mut rolling = JoinSet::new();
        for bot in self.bots.clone() {
            let world = self.world.clone();
            rolling.spawn(async move { roll(&world, &bot, version).await });
        }
        let mut outcome = Ok(());
        while let Some(rollout) = rolling.join_next().await {
            match rollout? {
                Ok(rollout) => self.findings.rollouts.push(rollout),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// A rollout while a hundred messages wait and a handler takes 300 ms.
    pub(crate) async fn roll_with_backlog(&mut self) -> Result<()> {
        let bot = self.world.bot("backlog", Library::Grammy, 1_000_011).await?;
        let mut spec = bot.spec(2, API_URL);
        spec["env"] = json!([{"name": "HANDLER_MS", "value": "300"}]);
        bot.apply(&spec).await?;
        bot.wait_ready(ROLLOUT).await?;
        let steady = Load { burst: 0, ..load(3) };
        self.world.emulator.start_load(&bot.token, &steady).await?;
        self.world.emulator.push(&bot.token, 100).await?;
        let rollout = roll(&self.world, &bot, 2).await?;
        self.findings.rollouts.push(rollout);
        let handover = self.world.emulator.verdict(&bot.token).await?.handovers.pop().context("no handover")?;
        let waited = |update: &&UpdateRecord| {
            update.pushed < handover.at && update.deliveries.first().is_none_or(|first| first.at >= handover.at)
        };
        let backlog = self.world.emulator.ledger(&bot.token).await?.updates.iter().filter(waited).count();
        ensure!(backlog >= 20, "only {backlog} updates waited while the lease changed hands");
        self.retire(bot).await
    }

    /// 1 → 2 → 1 replicas under load.
    pub(crate) async fn scale(&mut self) -> Result<()> {
        let bot = self.world.bot("scale", Library::Aiogram, 1_000_012).await?;
        bot.apply(&bot.spec(1, API_URL)).await?;
        bot.wait_ready(ROLLOUT).await?;
        self.world.emulator.start_load(&bot.token, &load(7)).await?;
        for replicas in [2, 1] {
            let began = self.world.emulator.mark_planned(&bot.token, &format!("scale to {replicas}")).await?;
            bot.change(&json!({"replicas": replicas})).await?;
            bot.wait_ready(ROLLOUT).await?;
            let world = &self.world;
            until(&format!("{replicas} pods"), ROLLOUT, || async {
                let pods = world.pods(&bot).await?.len();
                Ok(if pods == replicas { Look::Yes(()) } else { Look::NotYet(format!("{pods} pods")) })
            })
            .await?;
            // Another replica is no reason to change the leader; one less may be the leader.
            let seen = handovers_since(world, &bot, began).await?;
            ensure!(seen <= 2 - replicas, "{seen} handovers by the scaling to {replicas}");
            no_restarts(world, &bot).await?;
        }
        self.retire(bot).await
    }

    /// `kubectl delete pod` of a leader whose bot has no shell, no writable file and an arbitrary user: the hook runs in its
    /// container all the same, and hands over before the bot is told to stop.
    pub(crate) async fn delete_pod(&mut self) -> Result<()> {
        const USER: u32 = 12_345;
        let bot = self.world.bot("deleted", Library::Teloxide, 1_000_015).await?;
        let mut spec = bot.spec(2, API_URL);
        spec["podTemplate"]["spec"]["securityContext"] = json!({"runAsUser": USER, "runAsGroup": USER});
        bot.apply(&spec).await?;
        bot.wait_ready(ROLLOUT).await?;
        self.world.emulator.start_load(&bot.token, &load(11)).await?;
        let leader = self.somebody_stands_by(&bot).await?;
        if let Ok(cluster) = self.world.ground.breakable() {
            let pod = Pod::new(BOTS, &leader.pod);
            for pid in blocking(move || cluster.processes(&pod, Some("bot"))).await? {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
                ensure!(status.contains(&format!("Uid:\t{USER}\t")), "the bot runs as another user: {status}");
            }
        }
        answered_at_least(&self.world, &bot, 30).await?;
        self.world.emulator.mark_planned(&bot.token, "kubectl delete pod").await?;
        self.world.run("kubectl", &["delete", "pod", "-n", BOTS, &leader.pod]).await?;
        let now = bot.wait_ready(ROLLOUT).await?;
        ensure!(now.pod != leader.pod && now.epoch == leader.epoch + 1, "{leader:?} became {now:?}");
        told_gap(&self.world, &bot).await?;
        let last = &bot.status().await?["lastHandover"];
        ensure!(last["reason"] == "PodDeleted" && last["drainOutcome"] == "complete", "{last}");
        self.retire(bot).await
    }

    /// A liveness probe of the leader's bot fails. The kubelet runs the same hook as for the end of the pod, and then restarts that
    /// container alone: the pod hands over, and takes part again when it turns out that it was not to end.
    pub(crate) async fn fail_probe(&mut self) -> Result<()> {
        let bot = self.world.bot("probed", Library::Grammy, 1_000_016).await?;
        let mut spec = bot.spec(2, API_URL);
        // With a short grace period, which is what the agent waits for.
        spec["handover"] = json!({"drainTimeoutSeconds": 5});
        spec["podTemplate"]["spec"]["containers"] = json!([{
            "name": "bot",
            "livenessProbe": {
                "exec": {"command": ["sh", "-c", "! [ -e /tmp/sick ]"]},
                "periodSeconds": 1,
                "timeoutSeconds": 10,
                "failureThreshold": 1,
            },
        }]);
        bot.apply(&spec).await?;
        bot.wait_ready(ROLLOUT).await?;
        self.world.emulator.start_load(&bot.token, &load(13)).await?;
        let old = self.somebody_stands_by(&bot).await?;
        answered_at_least(&self.world, &bot, 30).await?;
        self.world.emulator.mark_planned(&bot.token, "a liveness probe fails").await?;
        // In the container's own file system: the next container is well.
        let sick = ["exec", "-n", BOTS, &old.pod, "-c", "bot", "--", "sh", "-c", ": > /tmp/sick"];
        self.world.run("kubectl", &sick).await?;
        until("the other pod to lead", ROLLOUT, || async {
            let leader = leader(&bot.status().await?);
            Ok(match leader {
                Some(leader) if leader.pod != old.pod => Look::Yes(()),
                other => Look::NotYet(format!("{other:?}")),
            })
        })
        .await?;
        let new = self.somebody_stands_by(&bot).await?;
        ensure!(new.pod != old.pod && new.epoch == old.epoch + 1, "{old:?} became {new:?}");
        let restarts = restarts(&self.world, &bot).await?;
        ensure!(restarts == 2, "{restarts} restarts, of the bot and of the agent beside it");
        self.retire(bot).await
    }

    /// A node is drained for maintenance.
    pub(crate) async fn drain_node(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let (node, led_there) = self.node_of_most().await?;
        let began = self.world.emulator.mark_all_planned(&format!("drain of {node}")).await?;
        let (draining, drained) = (cluster.clone(), node.clone());
        blocking(move || draining.drain(&drained, Duration::from_secs(120))).await?;
        for bot in &self.bots {
            until(&format!("{} to be led elsewhere", bot.name), ROLLOUT, || async {
                let leader = leader(&bot.status().await?);
                Ok(match leader {
                    Some(leader) if leader.node != node => Look::Yes(()),
                    other => Look::NotYet(format!("{other:?}")),
                })
            })
            .await?;
        }
        blocking(move || cluster.uncordon(&node)).await?;
        for bot in &self.bots {
            bot.wait_ready(ROLLOUT).await?;
            let needed = usize::from(led_there.iter().any(|(led, _)| led.name == bot.name));
            let seen = handovers_since(&self.world, bot, began).await?;
            ensure!(seen == needed, "{}: {seen} handovers by a drain that needed {needed}", bot.name);
        }
        Ok(())
    }

    /// The operator is away while all bots are replaced: Kubernetes and the agents go on by themselves.
    pub(crate) async fn roll_without_controller(&mut self) -> Result<()> {
        self.version += 1;
        let before = self.epochs().await?;
        let began = self.world.emulator.mark_all_planned("rollout, operator away").await?;
        for bot in &self.bots {
            bot.change(&version(self.version)).await?;
        }
        for bot in &self.bots {
            self.template_applied(bot, self.version).await?;
        }
        self.scale_operator(0).await?;
        for bot in &self.bots {
            self.world.deployment_rolled_out(BOTS, &bot.name, ROLLOUT).await?;
        }
        let after = self.epochs().await?;
        self.scale_operator(2).await?;
        for (bot, (before, after)) in self.bots.iter().zip(before.into_iter().zip(after)) {
            let seen = handovers_since(&self.world, bot, began).await?;
            self.findings.rollouts.push(Rollout { bot: bot.name.clone(), handovers: after - before, seen, told: None });
            bot.wait_ready(ROLLOUT).await?;
        }
        Ok(())
    }

    /// Versions that are not fit to lead; and beside them, on another bot, what people ask for.
    pub(crate) async fn bad_versions(&mut self) -> Result<()> {
        let (setbacks, asked) =
            tokio::join!(versions::bad_ones_go_back(&self.world), requests::are_answered(&self.world));
        self.findings.setbacks.extend(setbacks?);
        asked.context("what people ask for")
    }

    /// Two rollouts each.
    pub(crate) async fn roll_one_and_five(&mut self) -> Result<()> {
        for (replicas, id) in [(1, 1_000_051), (5, 1_000_052)] {
            let bot = self.world.bot(&format!("of-{replicas}"), Library::Grammy, id).await?;
            bot.apply(&bot.spec(replicas, API_URL)).await?;
            bot.wait_ready(ROLLOUT).await?;
            self.world.emulator.start_load(&bot.token, &load(19)).await?;
            answered_at_least(&self.world, &bot, 20).await?;
            for version in [2, 3] {
                let rollout = roll(&self.world, &bot, version).await.with_context(|| format!("{replicas} replicas"))?;
                self.findings.rollouts.push(rollout);
            }
            self.retire(bot).await?;
        }
        Ok(())
    }

    async fn template_applied(&self, bot: &Bot, version: u32) -> Result<()> {
        let want = version.to_string();
        until(&format!("version {version} of {} in its pods' template", bot.name), ROLLOUT, || async {
            let template = self.world.pod_env(bot, "VERSION").await?;
            Ok(if template.as_ref() == Some(&want) { Look::Yes(()) } else { Look::NotYet(format!("{template:?}")) })
        })
        .await
    }

    async fn scale_operator(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.world.run("kubectl", &["scale", "-n", OPERATOR, "deployment/pollux-controller", &replicas]).await?;
        if replicas == "--replicas=0" {
            let world = &self.world;
            until("the operator to be gone", ROLLOUT, || async {
                let pods = world
                    .run(
                        "kubectl",
                        &["get", "pods", "-n", OPERATOR, "-l", "app.kubernetes.io/component=controller", "-o", "name"],
                    )
                    .await?;
                Ok(if pods.trim().is_empty() { Look::Yes(()) } else { Look::NotYet(pods) })
            })
            .await?;
        }
        Ok(())
    }

    /// The chart's operator makes room for the one of `config/`, which goes on with the same bots.
    pub(crate) async fn install_by_kustomize(&mut self) -> Result<()> {
        self.world.ground.breakable()?;
        let world = self.world.clone();
        let kubectl = async |args: &str| world.run("kubectl", &args.split(' ').collect::<Vec<_>>()).await;
        kubectl(&format!("delete deployment,poddisruptionbudget pollux-controller -n {OPERATOR}")).await?;
        let base = repository().join("config/default");
        kubectl(&format!("apply --server-side --force-conflicts -k {}", base.display())).await?;
        let secrets: Api<Secret> = Api::namespaced(self.world.client.clone(), OPERATOR);
        let uri = secrets.get("pollux-postgres").await?.data.and_then(|mut data| data.remove("uri"));
        let uri = uri.context("the chart's PostgreSQL has no URI in its Secret")?;
        self.world
            .apply(&json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "pollux-controller-lease", "namespace": OPERATOR},
                "data": {"uri": uri},
            }))
            .await?;
        let stable = json!({"spec": {"template": {"spec": {"nodeSelector": self.world.ground.stable()}}}});
        kubectl(&format!("patch deployment pollux-controller -n {OPERATOR} --type=merge -p {stable}")).await?;
        self.world.deployment_rolled_out(OPERATOR, "pollux-controller", ROLLOUT).await?;
        self.version += 1;
        let rollout = roll(&self.world, &self.bot(Library::Telegraf)?, self.version).await?;
        self.findings.rollouts.push(rollout);
        Ok(())
    }

    /// A token that Telegram refuses.
    pub(crate) async fn rejected_token(&mut self) -> Result<()> {
        let bot = self.world.bot("rejected", Library::Grammy, 1_000_013).await?;
        self.world.emulator.revoke(&bot.token).await?;
        bot.apply(&bot.spec(1, API_URL)).await?;
        let message = bot.wait_reason("TokenAccepted", &["Unauthorized"], Duration::from_secs(60)).await?;
        ensure!(message.contains("rejected-token"), "the message does not name the Secret: {message}");
        bot.delete().await
    }
}

/// Rolls one bot out and counts its handovers by the epoch in the database.
pub(crate) async fn roll(world: &World, bot: &Bot, to: u32) -> Result<Rollout> {
    let before = world.epoch(bot).await?;
    let began = world.emulator.mark_planned(&bot.token, &format!("rollout to version {to}")).await?;
    bot.change(&version(to)).await?;
    bot.wait_ready(ROLLOUT).await?;
    world.deployment_rolled_out(BOTS, &bot.name, ROLLOUT).await?;
    until(&format!("a pod of {} that is there to lead", bot.name), ROLLOUT, || async {
        let leader = bot.wait_ready(ROLLOUT).await?;
        let pods = world.pods(bot).await?;
        let there = pods.iter().any(|pod| pod.metadata.name.as_deref() == Some(leader.pod.as_str()));
        Ok(if there { Look::Yes(()) } else { Look::NotYet(leader.pod) })
    })
    .await?;
    let after = world.epoch(bot).await?;
    let told = told_gap(world, bot).await?;
    no_restarts(world, bot).await?;
    let seen = handovers_since(world, bot, began).await?;
    Ok(Rollout { bot: bot.name.clone(), handovers: after - before, seen, told: Some(told) })
}

/// How often somebody else began to poll, by the emulator.
async fn handovers_since(world: &World, bot: &Bot, since: Duration) -> Result<usize> {
    let handovers = world.emulator.verdict(&bot.token).await?.handovers;
    Ok(handovers.iter().filter(|handover| handover.at > since).count())
}

/// A gentle change must not cost a bot or an agent its life.
async fn no_restarts(world: &World, bot: &Bot) -> Result<()> {
    let restarts = restarts(world, bot).await?;
    ensure!(restarts == 0, "containers of {} were restarted {restarts} times", bot.name);
    Ok(())
}

/// The gap of the last handover as the status tells it, beside what Telegram's side saw of it.
async fn told_gap(world: &World, bot: &Bot) -> Result<Told> {
    until(&format!("the gap of {}'s last handover in its status", bot.name), Duration::from_secs(30), || async {
        let last = &bot.status().await?["lastHandover"];
        let seen = world.emulator.verdict(&bot.token).await?.handovers.pop();
        Ok(match (last["gapMilliseconds"].as_f64(), seen) {
            (Some(status_ms), Some(seen)) if last["to"] == seen.to => {
                Look::Yes(Told { status_ms, seen_ms: seen.gap.as_secs_f64() * 1000.0 })
            }
            (_, seen) => Look::NotYet(format!("status {last}, seen {seen:?}")),
        })
    })
    .await
}
