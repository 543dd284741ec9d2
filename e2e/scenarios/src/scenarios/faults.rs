//! What happens to bots without anybody's wish: what it costs is counted apart, and never a second poller.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pollux_botapi::PollRecord;
use pollux_testbed::{Direction, Pod, Signal, signal_processes};
use serde_json::json;

use super::{ROLLOUT, Run, TTL};
use crate::bot::{Bot, Leader, Library};
use crate::emulator::CRASH_BEFORE;
use crate::wait::{Look, until};
use crate::world::{BOTS, OPERATOR, blocking};

// === impl Run ===

impl Run {
    /// The bot's process dies; the standby goes on.
    pub(crate) async fn kill_bot(&mut self) -> Result<()> {
        let bot = self.bot(Library::PythonTelegramBot)?;
        let (_, took) = self.strike(&bot, "kill -9 of the bot", Some("bot"), Signal::Kill, Next::Another).await?;
        self.findings.bot_crash_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// The agent's process dies; it is restarted in its place, finds its own lease and goes on.
    pub(crate) async fn kill_agent(&mut self) -> Result<()> {
        let bot = self.bot(Library::Grammy)?;
        let (_, took) =
            self.strike(&bot, "kill -9 of the agent", Some("agent"), Signal::Kill, Next::Reconnected).await?;
        self.findings.pod_restart_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// Both die.
    pub(crate) async fn kill_both(&mut self) -> Result<()> {
        let bot = self.bot(Library::Telegraf)?;
        let (_, took) = self.strike(&bot, "kill -9 of bot and agent", None, Signal::Kill, Next::Reconnected).await?;
        self.findings.pod_restart_ms.push(took);
        bot.wait_ready(ROLLOUT).await.map(drop)
    }

    /// The leader's pod stands still for three times its lease, and then goes on in the belief that nothing happened.
    pub(crate) async fn pause_pod(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let bot = self.bot(Library::Teloxide)?;
        let (leader, took) =
            self.strike(&bot, "SIGSTOP of the leader's pod", None, Signal::Stop, Next::Another).await?;
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

    /// Signals the leader's processes, and says whose, and how long it took until the next poll arrived at Telegram (ms).
    async fn strike(
        &self,
        bot: &Bot,
        what: &str,
        container: Option<&str>,
        signal: Signal,
        next: Next,
    ) -> Result<(Leader, f64)> {
        let cluster = self.world.ground.breakable()?;
        let leader = self.somebody_stands_by(bot).await?;
        let (pod, container) = (Pod::new(BOTS, &leader.pod), container.map(str::to_owned));
        let aimed = blocking(move || cluster.processes(&pod, container.as_deref())).await?;
        ensure!(!aimed.is_empty(), "{} has no process", leader.pod);
        let struck = self.world.emulator.mark_crash(&bot.token, what, TTL * 4).await?;
        blocking(move || signal_processes(&aimed, signal)).await?;
        let next = self.next_poll(bot, struck, &leader, next).await?;
        Ok((leader, (next.arrived - struck).as_secs_f64() * 1000.0))
    }

    /// The first poll that arrives after an instant of the emulator's clock.
    async fn next_poll(&self, bot: &Bot, after: Duration, old: &Leader, next: Next) -> Result<PollRecord> {
        let emulator = &self.world.emulator;
        until(&format!("the next poll of {}", bot.name), TTL * 6, || async {
            let polls = emulator.polls(&bot.token).await?;
            let earlier = polls.iter().filter(|poll| poll.arrived <= after && poll.peer.lane == old.pod);
            let before = earlier.map(|poll| poll.peer.connection).max();
            let found = polls.into_iter().filter(|poll| poll.arrived > after).find(|poll| match next {
                Next::Another => poll.peer.lane != old.pod,
                // A standby's connection may be older than the dead leader's last one.
                Next::Reconnected => poll.peer.lane != old.pod || Some(poll.peer.connection) > before,
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

    /// A node is cut off in both directions until its leases are over, and comes back.
    pub(crate) async fn cut_node(&mut self) -> Result<()> {
        let took = self.cut_a_node().await?;
        self.findings.node_dead_ms.extend(took);
        Ok(())
    }

    /// The same where failover goes by sessions: their end shows long before the leases are over.
    pub(crate) async fn cut_node_fast(&mut self) -> Result<()> {
        self.world.ground.breakable()?;
        self.failover("Fast").await?;
        let armed = format!(
            "select (select count(session_key) from pollux.lease) >= {bots} and (select count(*) from pg_stat_activity \
             where application_name = 'pollux-lock' and query like '%try_advisory%') >= {bots}",
            bots = self.bots.len()
        );
        until("sessions for failover", ROLLOUT, || async {
            let sessions = self.world.psql(&armed).await?;
            Ok(if sessions.trim() == "t" { Look::Yes(()) } else { Look::NotYet(sessions) })
        })
        .await?;
        let took = self.cut_a_node().await;
        self.failover("Ttl").await?;
        self.findings.node_fast_ms.extend(took?);
        Ok(())
    }

    async fn failover(&self, by: &str) -> Result<()> {
        for bot in &self.bots {
            bot.change(&json!({"lease": {"failover": by}})).await?;
        }
        Ok(())
    }

    /// Says how long it took until the next poll of each bot that was led there (ms).
    async fn cut_a_node(&self) -> Result<Vec<f64>> {
        let cluster = self.world.ground.breakable()?;
        let (node, led_there) = self.node_of_most().await?;
        let struck = self.mark_led(&led_there, &format!("{node} cut off")).await?;
        let (cutting, cut) = (cluster.clone(), node.clone());
        blocking(move || cutting.cut_node(&cut, Direction::Both)).await?;
        let mut took = Vec::new();
        for (bot, leader) in &led_there {
            let next = self.next_poll(bot, struck, leader, Next::Another).await?;
            took.push((next.arrived - struck).as_secs_f64() * 1000.0);
        }
        let mut epochs = Vec::new();
        for (bot, _) in &led_there {
            epochs.push(self.world.epoch(bot).await?);
        }
        blocking(move || cluster.heal_node(&node)).await?;
        // Whoever was behind the cut sees that it was replaced, and stays a standby.
        for ((bot, old), epoch) in led_there.iter().zip(epochs) {
            until(&format!("{} to show its new leader", bot.name), ROLLOUT, || async {
                let now = bot.wait_ready(ROLLOUT).await?;
                Ok(if now.pod == old.pod { Look::NotYet(format!("{now:?}")) } else { Look::Yes(()) })
            })
            .await?;
            self.stands_by_again(bot, &old.pod, epoch).await?;
        }
        Ok(took)
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
    pub(crate) async fn kill_node(&mut self) -> Result<()> {
        let cluster = self.world.ground.breakable()?;
        let (node, led_there) = self.node_of_most().await?;
        let struck = self.mark_led(&led_there, &format!("{node} dead")).await?;
        blocking(move || cluster.kill_node(&node)).await?;
        for (bot, leader) in &led_there {
            let next = self.next_poll(bot, struck, leader, Next::Another).await?;
            self.findings.node_dead_ms.push((next.arrived - struck).as_secs_f64() * 1000.0);
        }
        Ok(())
    }
}

/// Whose poll is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next one by another pod than the old leader's.
    Another,
    /// The next one by whoever goes on: by another pod, or by the same one on a connection that was not there before.
    Reconnected,
}
