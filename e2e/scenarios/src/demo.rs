//! `make demo`: the same bots with Pollux and as plain Deployments, side by side, under the same load.

use std::time::{Duration, Instant};

use anyhow::Result;
use pollux_botapi::BotVerdict;
use pollux_testbed::{Cluster, Options, Pod, Signal, signal_processes};

use crate::baseline::{Plain, Strategy};
use crate::bot::{Bot, Library};
use crate::ground::{Ground, Yours};
use crate::scenarios::{answered_at_least, load, restarts, settled, version};
use crate::suite::kubernetes;
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, TELEGRAM, World, blocking};

const LIBRARIES: [Library; 3] = [Library::PythonTelegramBot, Library::Grammy, Library::Aiogram];
const CLUSTER: &str = "demo";
const SEED: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(180);
/// The node that is drained. The emulator and the database are on the other one.
const DRAINED: &str = "node-2";

/// One row of the verdict.
struct Row {
    library: Library,
    way: &'static str,
    verdict: BotVerdict,
}

/// Prints what happens, as it happens.
struct Timeline {
    started: Instant,
}

// === impl Timeline ===

impl Timeline {
    fn say(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }
}

/// Runs the demo and leaves the cluster up.
pub(crate) async fn run(yours: Option<Yours>) -> Result<()> {
    let place = if yours.is_some() { "On your cluster:" } else { "A two-node cluster on this machine:" };
    println!("{place} three bots with Pollux, and the same bots as plain Deployments.");
    println!("The bots talk to an emulator of Telegram's Bot API in the cluster; no message leaves it.\n");
    let world = match yours {
        Some(yours) => World::visit(yours).await?,
        None => {
            World::up(Options { name: CLUSTER.into(), nodes: 2, kubernetes: kubernetes(), ..Options::default() })
                .await?
        }
    };
    let played = play(&world).await;
    if played.is_err() {
        eprintln!("What there is stays up, to be looked at; to remove it: {}", demo_down(&world));
    }
    played
}

/// The command that removes everything.
fn demo_down(world: &World) -> String {
    match &world.ground {
        Ground::Own(_) => "make demo-down".to_owned(),
        Ground::Yours(yours) => format!("make demo-down KUBECONFIG={}", yours.kubeconfig.display()),
    }
}

async fn play(world: &World) -> Result<()> {
    world.furnish().await?;
    let lanes = lanes_page(world).await?;
    println!("\nWatch it live: {lanes}\n");

    let (bots, plains) = start(world).await?;
    let timeline = Timeline { started: Instant::now() };
    timeline.say("load begins: 5 messages a second for each bot, bursts of 8 every 10 s");
    for token in bots.iter().map(|b| &b.token).chain(plains.iter().map(|p| &p.token)) {
        world.emulator.start_load(token, &load(SEED)).await?;
    }
    for bot in &bots {
        answered_at_least(world, bot, 20).await?;
    }
    roll(world, &timeline, &bots, &plains).await?;
    timeline.say("load pauses, so that every message meets its fate before the ledger is read");
    let planned = rows(world, &bots, &plains).await?;
    timeline.say("load on Pollux's bots goes on");
    for bot in &bots {
        world.emulator.start_load(&bot.token, &load(SEED + 1)).await?;
    }
    match world.ground.breakable() {
        Ok(cluster) => {
            kill(world, &cluster, &timeline, &bots[0]).await?;
            drain(world, &cluster, &timeline, &bots).await?;
        }
        Err(skipped) => timeline.say(&format!("no kill and no drain: this {skipped}")),
    }
    timeline.say("load ends");
    for bot in &bots {
        world.emulator.stop_load(&bot.token).await?;
    }
    settled(world, &bots.iter().map(|bot| &bot.token).collect::<Vec<_>>()).await?;
    print_verdict(world, &planned, &bots).await?;
    farewell(world, &lanes).await
}

/// Removes the cluster, or what the demo made on the user's.
pub(crate) async fn down(yours: Option<Yours>) -> Result<()> {
    match yours {
        Some(yours) => yours.clear(&World::again(yours.clone()).await?).await,
        None => blocking(|| Cluster::remove(CLUSTER)).await,
    }
}

async fn start(world: &World) -> Result<(Vec<Bot>, Vec<Plain>)> {
    let (mut bots, mut plains) = (Vec::new(), Vec::new());
    for (index, library) in LIBRARIES.into_iter().enumerate() {
        let id = 2_000_000 + 10 * index as u32;
        let bot = world.bot(library.short(), library, id).await?;
        let mut spec = bot.spec(2, API_URL);
        // Two nodes only, and one of them is drained: its pods must find room on the other.
        spec["podTemplate"] = serde_json::json!({});
        bot.apply(&spec).await?;
        bots.push(bot);
        plains.push(Plain::start(world, library, Strategy::RollingUpdate, id + 1).await?);
        plains.push(Plain::start(world, library, Strategy::Recreate, id + 2).await?);
    }
    for bot in &bots {
        bot.wait_ready(PATIENCE).await?;
    }
    for plain in &plains {
        world.deployment_available(BOTS, &plain.name).await?;
    }
    Ok((bots, plains))
}

async fn roll(world: &World, timeline: &Timeline, bots: &[Bot], plains: &[Plain]) -> Result<()> {
    timeline.say("a new version of every bot, with and without Pollux, at the same moment");
    for plain in plains {
        world.emulator.mark_planned(&plain.token, "rollout").await?;
        plain.roll(world, 2).await?;
    }
    for bot in bots {
        world.emulator.mark_planned(&bot.token, "rollout").await?;
        bot.change(&version(2)).await?;
    }
    for bot in bots {
        let leader = bot.wait_ready(PATIENCE).await?;
        world.deployment_rolled_out(BOTS, &bot.name, PATIENCE).await?;
        timeline.say(&format!("{:<8} rolled out; {} leads", bot.name, leader.pod));
    }
    for plain in plains {
        world.deployment_rolled_out(BOTS, &plain.name, PATIENCE).await?;
    }
    timeline.say("the plain Deployments are rolled out too");
    Ok(())
}

async fn kill(world: &World, cluster: &Cluster, timeline: &Timeline, bot: &Bot) -> Result<()> {
    let leader = bot.wait_ready(PATIENCE).await?;
    let before = restarts(world, bot).await?;
    let (cluster, pod) = (cluster.clone(), Pod::new(BOTS, &leader.pod));
    let aimed = blocking(move || cluster.processes(&pod, Some("bot"))).await?;
    timeline.say(&format!("kill -9 of the bot's process in {}, the leader of {}", leader.pod, bot.name));
    let struck = world.emulator.mark_crash(&bot.token, "kill -9 of the leader", Duration::from_secs(30)).await?;
    blocking(move || signal_processes(&aimed, Signal::Kill)).await?;
    let next = until("the next poll", PATIENCE, || async {
        let polls = world.emulator.polls(&bot.token).await?;
        let next = polls.into_iter().find(|p| p.arrived > struck && p.peer.lane != leader.pod);
        Ok(next.map_or_else(|| Look::NotYet("none".to_owned()), Look::Yes))
    })
    .await?;
    timeline.say(&format!("{} polls, {} ms after the kill", next.peer.lane, (next.arrived - struck).as_millis()));
    // What comes next is to find a standby again.
    until("the killed bot to be back", PATIENCE, || async {
        let (restarts, ready) = (restarts(world, bot).await?, world.ready_replicas(bot).await?);
        let back = restarts > before && ready.contains(&leader.pod);
        Ok(if back { Look::Yes(()) } else { Look::NotYet(format!("{restarts} restarts, ready: {ready:?}")) })
    })
    .await?;
    timeline.say(&format!("{} is back, as a standby", leader.pod));
    Ok(())
}

async fn drain(world: &World, cluster: &Cluster, timeline: &Timeline, bots: &[Bot]) -> Result<()> {
    for bot in bots {
        world.emulator.mark_planned(&bot.token, &format!("drain of {DRAINED}")).await?;
    }
    timeline.say(&format!("kubectl drain {DRAINED}"));
    let draining = cluster.clone();
    blocking(move || draining.drain(DRAINED, PATIENCE)).await?;
    timeline.say(&format!("{DRAINED} is empty"));
    let cluster = cluster.clone();
    blocking(move || cluster.uncordon(DRAINED)).await?;
    for bot in bots {
        let leader = bot.wait_ready(PATIENCE).await?;
        timeline.say(&format!("{:<8} is led by {} on {}", bot.name, leader.pod, leader.node));
    }
    Ok(())
}

/// What comes after the rollout is done to Pollux's bots alone.
async fn rows(world: &World, bots: &[Bot], plains: &[Plain]) -> Result<Vec<Row>> {
    let tokens: Vec<&String> =
        bots.iter().map(|bot| &bot.token).chain(plains.iter().map(|plain| &plain.token)).collect();
    for token in &tokens {
        world.emulator.stop_load(token).await?;
    }
    settled(world, &tokens).await?;
    let mut rows = Vec::new();
    for bot in bots {
        let verdict = world.emulator.verdict(&bot.token).await?;
        rows.push(Row { library: bot.library, way: "Pollux", verdict });
    }
    for plain in plains {
        let verdict = world.emulator.verdict(&plain.token).await?;
        rows.push(Row { library: plain.library, way: plain.strategy.name(), verdict });
    }
    rows.sort_by_key(|row| row.library);
    Ok(rows)
}

async fn print_verdict(world: &World, planned: &[Row], bots: &[Bot]) -> Result<()> {
    println!("\nThe rollout, by the emulator's ledger (every message, every answer):\n");
    println!(
        "  {:<9} {:<14} {:>8} {:>6} {:>9} {:>5} {:>16}",
        "library", "run by", "messages", "LOST", "ANSWERED", "409", "longest silence"
    );
    println!("  {:<9} {:<14} {:>8} {:>6} {:>9} {:>5} {:>16}", "", "", "", "", "TWICE", "", "");
    for row in planned {
        let v = &row.verdict;
        println!(
            "  {:<9} {:<14} {:>8} {:>6} {:>9} {:>5} {:>13} ms",
            row.library.short(),
            row.way,
            v.updates,
            v.counts.lost,
            v.counts.dup,
            v.counts.conflict,
            v.longest_silence.as_millis(),
        );
    }
    let done = if world.ground.breakable().is_ok() { "rollout, kill, drain" } else { "rollout" };
    println!("\nEverything that was done to the bots with Pollux ({done}):\n");
    for bot in bots {
        let v = world.emulator.verdict(&bot.token).await?;
        for handover in &v.handovers {
            println!(
                "  {:<9} {:>6.1} s  {} -> {}  gap {} ms",
                bot.name,
                handover.at.as_secs_f64(),
                handover.from,
                handover.to,
                handover.gap.as_millis()
            );
        }
        println!(
            "  {:<9} {} messages, {} lost, {} answered twice, {} conflicts; by the kill: {} lost, {} answered twice",
            bot.name, v.updates, v.counts.lost, v.counts.dup, v.counts.conflict, v.crash.lost, v.crash.dup
        );
    }
    println!(
        "\n$ kubectl get telegrambots -n {BOTS}\n{}",
        world.run("kubectl", &["get", "telegrambots", "-n", BOTS]).await?
    );
    Ok(())
}

async fn lanes_page(world: &World) -> Result<String> {
    let Ground::Own(cluster) = world.ground.clone() else {
        return Ok(format!("kubectl port-forward -n {TELEGRAM} service/botapi 8090, then http://127.0.0.1:8090/"));
    };
    let address = blocking(move || cluster.forward(&format!("service/{TELEGRAM}/botapi:8090"), 0)).await?;
    Ok(format!("http://{address}/"))
}

async fn farewell(world: &World, lanes: &str) -> Result<()> {
    println!("Everything stays up. To try next:\n");
    match &world.ground {
        Ground::Own(cluster) => println!("  . {}", cluster.env_file().display()),
        Ground::Yours(yours) => println!("  export KUBECONFIG={}", yours.kubeconfig.display()),
    }
    println!("  kubectl get telegrambots -n {BOTS} -o wide -w");
    println!("  kubectl delete pod -n {BOTS} -l pollux.dev/bot=grammy --wait=false");
    println!(
        "  kubectl patch tgbot grammy -n {BOTS} --type=merge -p '{{\"spec\":{{\"env\":[{{\"name\":\"VERSION\",\"value\":\"3\"}}]}}}}'"
    );
    println!("  the lanes page: {lanes}");
    println!("  {}", demo_down(world));
    Ok(())
}
