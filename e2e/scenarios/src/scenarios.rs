//! The scenarios, each named after what it does to the bots. All of them use the same five bots (one a library, two replicas),
//! under load from beginning to end; the ledger at the end is the oracle.

mod faults;
mod planned;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pollux_botapi::{BotVerdict, Load};
use serde_json::json;

use crate::bot::{Bot, Leader, Library};
use crate::ground::Skipped;
use crate::report::Findings;
use crate::wait::{Look, until};
use crate::world::{API_URL, World};

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

    /// Lets a bot finish, takes its verdict and removes it, so that it takes no time from the others.
    async fn retire(&mut self, bot: Bot) -> Result<()> {
        let verdict = settle(&self.world, &bot).await?;
        self.verdicts.push((bot.library, verdict));
        bot.delete().await
    }

    /// How often containers of all bots' pods were restarted.
    async fn restarts(&self) -> Result<i32> {
        let mut sum = 0;
        for bot in &self.bots {
            sum += restarts(&self.world, bot).await?;
        }
        Ok(sum)
    }

    async fn epochs(&self) -> Result<Vec<i64>> {
        let mut epochs = Vec::new();
        for bot in &self.bots {
            epochs.push(self.world.epoch(bot).await?);
        }
        Ok(epochs)
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

    /// The node on which most bots are led, and which those are. Where leaders are is chance, and what is done to a node with
    /// none proves nothing. Bots run only on nodes that may be broken.
    pub(crate) async fn node_of_most(&self) -> Result<(String, Vec<(Bot, Leader)>)> {
        let mut nodes: BTreeMap<String, Vec<(Bot, Leader)>> = BTreeMap::new();
        for bot in &self.bots {
            let leader = self.somebody_stands_by(bot).await?;
            nodes.entry(leader.node.clone()).or_default().push((bot.clone(), leader));
        }
        nodes.into_iter().max_by_key(|(_, led)| led.len()).context("no bot is led")
    }
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

/// How often containers of a bot's pods were restarted.
pub(crate) async fn restarts(world: &World, bot: &Bot) -> Result<i32> {
    let mut restarts = 0;
    for pod in world.pods(bot).await? {
        let status = pod.status.unwrap_or_default();
        let bots = status.container_statuses.unwrap_or_default();
        let agents = status.init_container_statuses.unwrap_or_default();
        restarts += bots.iter().chain(&agents).map(|container| container.restart_count).sum::<i32>();
    }
    Ok(restarts)
}

/// Waits until a bot has answered that many messages.
pub(crate) async fn answered_at_least(world: &World, bot: &Bot, count: u64) -> Result<()> {
    until(&format!("{} to answer {count} messages", bot.name), ROLLOUT, || async {
        let answered = world.emulator.verdict(&bot.token).await?.answered;
        Ok(if answered >= count { Look::Yes(()) } else { Look::NotYet(format!("{answered} answers")) })
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
