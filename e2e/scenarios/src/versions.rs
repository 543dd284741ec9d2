//! New versions that are not fit to lead: each goes back by itself, names why, and costs users at most two switches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pollux_botapi::Counts;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bot::{Bot, Library, condition, leader};
use crate::report::Setback;
use crate::scenarios::{answered_at_least, load, settle};
use crate::wait::{Look, until};
use crate::world::{API_URL, World};

const PATIENCE: Duration = Duration::from_secs(150);

/// A version that cannot work.
#[derive(Clone, Copy)]
struct Bad {
    name: &'static str,
    /// What is changed to get it.
    change: fn() -> Value,
    /// What the status must name.
    names: &'static str,
    /// How often the session changes hands: there and back, or not at all.
    handovers: usize,
}

const VERSIONS: [Bad; 5] = [
    Bad {
        name: "no-image",
        change: || json!({"image": "localhost:9/no-such-image:dev"}),
        names: "no-such-image",
        handovers: 0,
    },
    Bad { name: "ends-at-once", change: || shell("exit 7"), names: "exit code 7", handovers: 0 },
    Bad { name: "never-polls", change: || shell("exec sleep 1000"), names: "has not asked for updates", handovers: 0 },
    Bad {
        name: "dies-on-trial",
        change: || shell("node bot.mjs & sleep 15; exit 3"),
        // Its agent is faster than the kubelet.
        names: "its bot's process ended",
        handovers: 2,
    },
    // The shell is what fills the memory, or else the kernel would end a process that nobody misses.
    Bad {
        name: "leaks",
        change: || shell("node bot.mjs & sleep 15; exec tail /dev/zero"),
        names: "OOMKilled",
        handovers: 2,
    },
];

fn shell(script: &str) -> Value {
    json!({"command": ["sh", "-c", script], "resources": {"limits": {"memory": "160Mi"}}})
}

/// All of them at once, each on a bot of its own.
pub(crate) async fn bad_ones_go_back(world: &World) -> Result<Vec<Setback>> {
    let mut tried = JoinSet::new();
    for (index, bad) in VERSIONS.into_iter().enumerate() {
        let world = world.clone();
        tried.spawn(async move {
            let bot = world.bot(bad.name, Library::Grammy, 1_000_041 + index as u32).await?;
            goes_back(&world, &bot, bad).await.with_context(|| bad.name)
        });
    }
    let (mut setbacks, mut failed) = (Vec::new(), Vec::new());
    while let Some(setback) = tried.join_next().await {
        match setback? {
            Ok(setback) => setbacks.push(setback),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(setbacks)
}

async fn goes_back(world: &World, bot: &Bot, bad: Bad) -> Result<Setback> {
    let mut spec = bot.spec(1, API_URL);
    spec["handover"] = json!({"drainTimeoutSeconds": 10});
    spec["analysis"] = json!({"bakeSeconds": 20});
    spec["progressDeadlineSeconds"] = json!(56);
    bot.apply(&spec).await?;
    let old = bot.wait_ready(PATIENCE).await?;
    world.emulator.start_load(&bot.token, &load(17)).await?;
    answered_at_least(world, bot, 20).await?;
    let began = world.emulator.mark_planned(&bot.token, bad.name).await?;
    bot.change(&(bad.change)()).await?;
    let message = bot.wait_reason("Ready", &["RolledBack"], PATIENCE).await?;
    ensure!(message.contains(bad.names), "the message does not name {}: {message}", bad.names);
    let status = until("the old pod to lead alone", PATIENCE, || async {
        let status = bot.status().await?;
        let alone = status["replicas"] == 1 && leader(&status).is_some_and(|leader| leader.pod == old.pod);
        let told = status["phase"] == "RolledBack"
            && condition(&status, "Progressing").is_some_and(|c| c["status"] == "False");
        Ok(if alone && told { Look::Yes(status) } else { Look::NotYet(status.to_string()) })
    })
    .await?;
    ensure!(status["ready"] == "1/1", "{status}");
    let states: Vec<_> = status["revisions"].as_array().into_iter().flatten().map(|r| r["state"].clone()).collect();
    ensure!(states == [json!("RolledBack"), json!("Stable")], "{states:?}");
    answered_at_least(world, bot, world.emulator.verdict(&bot.token).await?.answered + 20).await?;

    let verdict = settle(world, bot).await?;
    ensure!(verdict.counts == Counts::default(), "it cost messages: {:?}", verdict.counts);
    let gaps: Vec<_> = verdict.handovers.iter().filter(|handover| handover.at > began).map(|h| h.gap).collect();
    ensure!(gaps.len() == bad.handovers, "{} handovers: {:?}", gaps.len(), verdict.handovers);
    bot.delete().await?;
    Ok(Setback { version: bad.name, gaps_ms: gaps.iter().map(|gap| gap.as_secs_f64() * 1000.0).collect(), message })
}
