//! The scenarios, each named after what it does to the bots. All of them use the same five bots (one a library, two replicas),
//! under load from beginning to end; the ledger at the end is the oracle.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use pollux_botapi::{BotVerdict, Load, PollRecord, UpdateRecord};
use pollux_testbed::{Direction, Pod, Signal, signal_processes};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bot::{Bot, Leader, Library, leader};
use crate::emulator::CRASH_BEFORE;
use crate::ground::Skipped;
use crate::report::{Findings, Rollout, Told};
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, OPERATOR, World, blocking, repository};

/// The TTL of the leases here; the default of the resource.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// Nothing moved for this long: nothing will any more. Longer than two leases and the restart of a container.
const STILL: Duration = Duration::from_secs(25);
/// All is answered and confirmed, and nothing moved for this long: no second answer is on its way, and no conflict (Telegram
/// delays some by three seconds).
const QUIET: Duration = Duration::from_secs(4);
/// How long a rollout of two replicas may take.
const ROLLOUT: Duration = Duration::from_secs(150);

/// A run: the world, its bots, and what was found so far.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) bots: Vec<Bot>,
    pub(crate) findings: Findings,
    /// Of bots that have done their part.
    pub(crate) verdicts: Vec<(Library, BotVerdict)>,
    version: u32,
}

// === impl Run ===

impl Run {
    /// Starts one bot of each library and its load.
    pub(crate) async fn start(world: World, libraries: &[Library], seed: u64) -> Result<Self> {
        let mut bots = Vec::new();
        for (index, library) in libraries.iter().enumerate() {
            let bot = world.bot(library.short(), *library, 1_000_001 + index as u32).await?;
            bot.apply(&bot.spec(2, API_URL)).await?;
            bots.push(bot);
        }
        for bot in &bots {
            bot.wait_ready(ROLLOUT).await?;
            world.emulator.start_load(&bot.token, &load(seed)).await?;
        }
        Ok(Self { world, bots, findings: Findings::default(), verdicts: Vec::new(), version: 1 })
    }

    /// Runs a scenario and notes how it ended; one that fails does not stop the others.
    pub(crate) async fn scenario(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                println!("ok      {name}");
                self.findings.passed.push(name.to_owned());
            }
            Err(error) if error.is::<Skipped>() => {
                println!("skipped {name}: {error}");
                self.findings.skipped.push(name.to_owned());
            }
            Err(error) => {
                println!("FAILED  {name}: {error:#}");
                self.findings.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    fn bot(&self, library: Library) -> Result<Bot> {
        self.bots
            .iter()
            .find(|bot| bot.library == library)
            .cloned()
            .with_context(|| format!("no bot of {}", library.short()))
    }

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
        self.world.emulator.mark_planned(&bot.token, "kubectl delete pod").await?;
        self.world.run("kubectl", &["delete", "pod", "-n", BOTS, &leader.pod]).await?;
        let now = bot.wait_ready(ROLLOUT).await?;
        ensure!(now.pod != leader.pod && now.epoch == leader.epoch + 1, "{leader:?} became {now:?}");
        told_gap(&self.world, &bot).await?;
        let last = &bot.status().await?["lastHandover"];
        ensure!(last["reason"] == "PodDeleted" && last["drainOutcome"] == "complete", "{last}");
        self.retire(bot).await
    }

    /// Lets a bot finish, takes its verdict and removes it, so that it takes no time from the others.
    async fn retire(&mut self, bot: Bot) -> Result<()> {
        let verdict = settle(&self.world, &bot).await?;
        self.verdicts.push((bot.library, verdict));
        bot.delete().await
    }

    /// The bot's process dies; the standby goes on.
    pub(crate) async fn kill_bot(&mut self) -> Result<()> {
        let bot = self.bot(Library::PythonTelegramBot)?;
        let took = self.strike(&bot, "kill -9 of the bot", Some("bot"), Signal::Kill, Next::Another).await?;
        self.findings.bot_crash_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// The agent's process dies; it is restarted in its place, finds its own lease and goes on.
    pub(crate) async fn kill_agent(&mut self) -> Result<()> {
        let bot = self.bot(Library::Grammy)?;
        let took = self.strike(&bot, "kill -9 of the agent", Some("agent"), Signal::Kill, Next::Reconnected).await?;
        self.findings.pod_restart_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// Both die.
    pub(crate) async fn kill_both(&mut self) -> Result<()> {
        let bot = self.bot(Library::Telegraf)?;
        let took = self.strike(&bot, "kill -9 of bot and agent", None, Signal::Kill, Next::Reconnected).await?;
        self.findings.pod_restart_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// The leader's pod stands still for three times its lease, and then goes on in the belief that nothing happened.
    pub(crate) async fn pause_pod(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let bot = self.bot(Library::Teloxide)?;
        let leader = self.somebody_stands_by(&bot).await?;
        let took = self.strike(&bot, "SIGSTOP of the leader's pod", None, Signal::Stop, Next::Another).await?;
        tokio::time::sleep((TTL * 3).saturating_sub(Duration::from_secs_f64(took / 1000.0))).await;
        let epoch = self.world.epoch(&bot).await?;
        let woken = self.world.emulator.mark_planned(&bot.token, "SIGCONT").await?;
        let paused = Pod::new(BOTS, &leader.pod);
        blocking(move || cluster.signal(&paused, None, Signal::Continue)).await?;
        self.stands_by_again(&bot, &leader.pod, epoch).await?;
        let polls = self.world.emulator.polls(&bot.token).await?;
        let late = polls.iter().filter(|poll| poll.arrived > woken && poll.peer.lane == leader.pod).count();
        ensure!(late <= 1, "the paused pod polled {late} times after it woke");
        Ok(())
    }

    /// Waits until a former leader is a standby that could lead, under an epoch that has not changed meanwhile.
    async fn stands_by_again(&self, bot: &Bot, pod: &str, epoch: i64) -> Result<()> {
        let world = &self.world;
        until(&format!("{pod} to stand by"), ROLLOUT, || async {
            let leader = bot.wait_ready(ROLLOUT).await?;
            ensure!(leader.pod != pod, "{pod} leads again");
            let ready = world.ready_replicas(bot).await?;
            Ok(if ready.iter().any(|ready| ready == pod) { Look::Yes(()) } else { Look::NotYet(format!("{ready:?}")) })
        })
        .await?;
        let now = world.epoch(bot).await?;
        ensure!(now == epoch, "the lease changed hands again: epoch {epoch} became {now}");
        Ok(())
    }

    /// Signals the leader's processes, and says how long it took until the next poll arrived at Telegram (ms).
    async fn strike(&self, bot: &Bot, what: &str, container: Option<&str>, signal: Signal, next: Next) -> Result<f64> {
        let cluster = self.world.ground.breakable()?;
        let leader = self.somebody_stands_by(bot).await?;
        let (pod, container) = (Pod::new(BOTS, &leader.pod), container.map(str::to_owned));
        let aimed = blocking(move || cluster.processes(&pod, container.as_deref())).await?;
        ensure!(!aimed.is_empty(), "{} has no process", leader.pod);
        let struck = self.world.emulator.mark_crash(&bot.token, what, TTL * 4).await?;
        blocking(move || signal_processes(&aimed, signal)).await?;
        let next = self.next_poll(bot, struck, &leader, next).await?;
        Ok((next.arrived - struck).as_secs_f64() * 1000.0)
    }

    /// The first poll that arrives after an instant of the emulator's clock.
    async fn next_poll(&self, bot: &Bot, after: Duration, old: &Leader, next: Next) -> Result<PollRecord> {
        let emulator = &self.world.emulator;
        until(&format!("the next poll of {}", bot.name), TTL * 6, || async {
            let polls = emulator.polls(&bot.token).await?;
            let before = polls.iter().filter(|poll| poll.arrived <= after).map(|poll| poll.peer.connection).max();
            let found = polls.into_iter().filter(|poll| poll.arrived > after).find(|poll| match next {
                Next::Another => poll.peer.lane != old.pod,
                Next::Reconnected => Some(poll.peer.connection) > before,
            });
            Ok(found.map_or_else(|| Look::NotYet("none".to_owned()), Look::Yes))
        })
        .await
    }

    /// Postgres stands still for 20 s: bots notice nothing but silence.
    pub(crate) async fn stop_postgres(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let before = (self.restarts().await?, self.epochs().await?);
        let struck = self.world.emulator.mark_all_planned("Postgres stopped for 20 s").await?;
        let pod = Pod::new(OPERATOR, "pollux-postgres-0");
        let (stopping, stopped) = (cluster.clone(), pod.clone());
        blocking(move || stopping.signal(&stopped, Some("postgres"), Signal::Stop)).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let over = self.world.emulator.mark_all_planned("Postgres goes on").await?;
        blocking(move || cluster.signal(&pod, Some("postgres"), Signal::Continue)).await?;
        for bot in &self.bots {
            self.somebody_stands_by(bot).await?;
            // Every lease has ended by then, and whoever held it knows that by his own clock.
            let silent = struck + TTL + Duration::from_secs(2)..over;
            let polls = self.world.emulator.polls(&bot.token).await?;
            let bad = polls.iter().find(|poll| silent.contains(&poll.arrived));
            ensure!(bad.is_none(), "{} polled without a lease: {bad:?}", bot.name);
        }
        let after = (self.restarts().await?, self.epochs().await?);
        ensure!(before == after, "restarts and epochs were {before:?} and are {after:?}");
        Ok(())
    }

    /// How often containers of all bots' pods were restarted.
    async fn restarts(&self) -> Result<i32> {
        let mut sum = 0;
        for bot in &self.bots {
            sum += restarts(&self.world, bot).await?;
        }
        Ok(sum)
    }

    /// A node is drained for maintenance.
    pub(crate) async fn drain_node(&mut self, node: &str) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let led_there = self.led_on(node).await?;
        ensure!(!led_there.is_empty(), "nobody leads on {node}: its drain proves nothing");
        let began = self.world.emulator.mark_all_planned(&format!("drain of {node}")).await?;
        let (draining, drained) = (cluster.clone(), node.to_owned());
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
        let node = node.to_owned();
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

    async fn epochs(&self) -> Result<Vec<i64>> {
        let mut epochs = Vec::new();
        for bot in &self.bots {
            epochs.push(self.world.epoch(bot).await?);
        }
        Ok(epochs)
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

    /// The operator's active replica dies: the other one takes its place and does the next thing that is asked of it.
    pub(crate) async fn kill_operator(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let holder = "jsonpath={.spec.holderIdentity}";
        let active =
            self.world.run("kubectl", &["get", "lease", "pollux-controller", "-n", OPERATOR, "-o", holder]).await?;
        let pods = self
            .world
            .run(
                "kubectl",
                &[
                    "get",
                    "pods",
                    "-n",
                    OPERATOR,
                    "-l",
                    "app.kubernetes.io/component=controller",
                    "-o",
                    "jsonpath={.items[*].metadata.name}",
                ],
            )
            .await?;
        let pod = pods
            .split_whitespace()
            .find(|pod| active.contains(*pod))
            .with_context(|| format!("the Lease names {active:?}, which is none of {pods}"))?;
        let bot = self.bot(Library::Aiogram)?;
        let pod = Pod::new(OPERATOR, pod);
        blocking(move || cluster.signal(&pod, None, Signal::Kill)).await?;
        bot.change(&json!({"minReadySeconds": 2})).await?;
        let world = &self.world;
        until("the other operator to act", Duration::from_secs(60), || async {
            let seconds = world
                .run("kubectl", &["get", "deployment", "-n", BOTS, &bot.name, "-o", "jsonpath={.spec.minReadySeconds}"])
                .await?;
            Ok(if seconds == "2" { Look::Yes(()) } else { Look::NotYet(seconds) })
        })
        .await?;
        bot.wait_ready(ROLLOUT).await.map(drop)
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

    /// A node is cut off in both directions until its leases are over, and comes back.
    pub(crate) async fn cut_node(&mut self, node: &str) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let led_there = self.led_on(node).await?;
        ensure!(!led_there.is_empty(), "nobody leads on {node}: nothing to cut off");
        let struck = self.mark_led(&led_there, &format!("{node} cut off")).await?;
        let (cutting, cut) = (cluster.clone(), node.to_owned());
        blocking(move || cutting.cut_node(&cut, Direction::Both)).await?;
        for (bot, leader) in &led_there {
            let next = self.next_poll(bot, struck, leader, Next::Another).await?;
            self.findings.node_dead_ms.push((next.arrived - struck).as_secs_f64() * 1000.0);
        }
        let mut epochs = Vec::new();
        for (bot, _) in &led_there {
            epochs.push(self.world.epoch(bot).await?);
        }
        let cut = node.to_owned();
        blocking(move || cluster.heal_node(&cut)).await?;
        // Whoever was behind the cut sees that it was replaced, and stays a standby.
        for ((bot, old), epoch) in led_there.iter().zip(epochs) {
            until(&format!("{} to show its new leader", bot.name), ROLLOUT, || async {
                let now = bot.wait_ready(ROLLOUT).await?;
                Ok(if now.pod == old.pod { Look::NotYet(format!("{now:?}")) } else { Look::Yes(()) })
            })
            .await?;
            self.stands_by_again(bot, &old.pod, epoch).await?;
        }
        Ok(())
    }

    /// Marks what happens to the bots that are led on a node, and to them alone: the others must not notice.
    async fn mark_led(&self, led: &[(Bot, Leader)], what: &str) -> Result<Duration> {
        // The window of a crash reaches back; what was done before is to be judged as what it was.
        tokio::time::sleep(CRASH_BEFORE).await;
        let mut struck = Duration::ZERO;
        for (bot, _) in led {
            struck = self.world.emulator.mark_crash(&bot.token, what, TTL * 4).await?;
        }
        Ok(struck)
    }

    /// A node dies and does not come back.
    pub(crate) async fn kill_node(&mut self, node: &str) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let led_there = self.led_on(node).await?;
        ensure!(!led_there.is_empty(), "nobody leads on {node}: its death proves nothing");
        let struck = self.mark_led(&led_there, &format!("{node} dead")).await?;
        let dead = node.to_owned();
        blocking(move || cluster.kill_node(&dead)).await?;
        for (bot, leader) in &led_there {
            let next = self.next_poll(bot, struck, leader, Next::Another).await?;
            self.findings.node_dead_ms.push((next.arrived - struck).as_secs_f64() * 1000.0);
        }
        Ok(())
    }

    /// Waits until another replica than the leader could lead at once: a fault during the recovery from the one before
    /// would measure both.
    async fn somebody_stands_by(&self, bot: &Bot) -> Result<Leader> {
        let world = &self.world;
        until(&format!("a standby of {}", bot.name), ROLLOUT, || async {
            let leader = bot.wait_ready(ROLLOUT).await?;
            let ready = world.ready_replicas(bot).await?;
            let standby = ready.contains(&leader.pod) && ready.len() >= 2;
            Ok(if standby { Look::Yes(leader) } else { Look::NotYet(format!("{leader:?}, ready: {ready:?}")) })
        })
        .await
    }

    /// The bots whose leader is on a node.
    pub(crate) async fn led_on(&self, node: &str) -> Result<Vec<(Bot, Leader)>> {
        let mut found = Vec::new();
        for bot in &self.bots {
            let leader = self.somebody_stands_by(bot).await?;
            if leader.node == node {
                found.push((bot.clone(), leader));
            }
        }
        Ok(found)
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

/// Whose poll is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next one by another pod than the old leader's.
    Another,
    /// The next one on a connection that was not there before: by whoever went on, in the same pod or in another.
    Reconnected,
}

/// Five messages a second, bursts of eight.
pub(crate) fn load(seed: u64) -> Load {
    Load {
        rate: 5.0,
        burst: 8,
        burst_every: Duration::from_secs(10),
        chats: 20,
        seed,
        seconds: Some(Duration::from_secs(3_600)),
        count: None,
    }
}

/// The change that makes a new revision.
pub(crate) fn version(version: u32) -> serde_json::Value {
    json!({"env": [{"name": "HANDLER_MS", "value": "100"}, {"name": "VERSION", "value": version.to_string()}]})
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

/// How often containers of a bot's pods were restarted.
async fn restarts(world: &World, bot: &Bot) -> Result<i32> {
    let mut restarts = 0;
    for pod in world.pods(bot).await? {
        let status = pod.status.unwrap_or_default();
        let bots = status.container_statuses.unwrap_or_default();
        let agents = status.init_container_statuses.unwrap_or_default();
        restarts += bots.iter().chain(&agents).map(|container| container.restart_count).sum::<i32>();
    }
    Ok(restarts)
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

/// Ends the load and waits until every message has met its fate.
pub(crate) async fn settle(world: &World, bot: &Bot) -> Result<BotVerdict> {
    world.emulator.stop_load(&bot.token).await?;
    settled(world, &[&bot.token]).await?;
    let verdict = world.emulator.verdict(&bot.token).await?;
    explain(world, bot, &verdict).await?;
    Ok(verdict)
}

/// Prints the life of every message that was lost or answered twice, and what was done to the bot meanwhile.
async fn explain(world: &World, bot: &Bot, verdict: &BotVerdict) -> Result<()> {
    if verdict.counts.lost + verdict.counts.dup == 0 {
        return Ok(());
    }
    println!("{}: {}", bot.name, serde_json::to_string(&verdict.handovers)?);
    println!("{}: {}", bot.name, serde_json::to_string(&verdict.marks)?);
    for update in world.emulator.ledger(&bot.token).await?.updates {
        let lost = update.removed.is_some() && update.replies.is_empty();
        if lost || update.replies.len() > 1 {
            println!("{}: {}", bot.name, serde_json::to_string(&update)?);
        }
    }
    Ok(())
}

/// Waits until all are answered, or until nothing has moved for so long that the rest is lost.
pub(crate) async fn settled(world: &World, tokens: &[&String]) -> Result<()> {
    let mut last = Vec::new();
    let mut since = Instant::now();
    let end = Instant::now() + ROLLOUT;
    while Instant::now() < end && since.elapsed() < STILL {
        let mut now = Vec::new();
        let mut all = true;
        for token in tokens {
            let verdict = world.emulator.verdict(token).await?;
            all &= verdict.answered == verdict.updates && verdict.undelivered == 0;
            now.push((verdict.answered, verdict.undelivered, verdict.counts, verdict.crash, verdict.late));
        }
        if last != now {
            last = now;
            since = Instant::now();
        }
        if all && since.elapsed() >= QUIET {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
