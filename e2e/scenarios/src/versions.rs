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
/// What a bot is given at once.
const BATCH: u64 = 20;

/// A version that cannot work.
#[derive(Clone, Copy)]
struct Bad {
    name: &'static str,
    /// What is changed to get it.
    change: fn() -> Value,
    /// What the status must name: one of these, for a dying bot's agent may be faster than the kubelet.
    names: &'static [&'static str],
    /// How often the session changes hands: there and back, or not at all.
    handovers: usize,
    /// It takes messages and does not answer them.
    loses: bool,
    /// It dies with a batch in hand, which comes again.
    repeats: bool,
}

const VERSIONS: [Bad; 6] = [
    Bad {
        name: "no-image",
        change: || json!({"image": "localhost:9/no-such-image:dev"}),
        names: &["no-such-image"],
        handovers: 0,
        loses: false,
        repeats: false,
    },
    // It says that all is well, and nobody gets an answer.
    Bad {
        name: "is-refused",
        change: || {
            // Its image has no sed.
            let reply = "await ctx.reply(ctx.message.text)";
            let refused = "await ctx.api.sendMessage(1, '').catch(() => {})";
            shell(&format!(
                r#"code=$(cat bot.mjs); exec node --input-type=module -e "${{code%%"{reply}"*}}{refused}${{code#*"{reply}"}}""#
            ))
        },
        names: &["calls of"],
        handovers: 2,
        loses: true,
        repeats: false,
    },
    Bad {
        name: "ends-at-once",
        change: || shell("exit 7"),
        names: &["exit code 7"],
        handovers: 0,
        loses: false,
        repeats: false,
    },
    Bad {
        name: "never-polls",
        change: || shell("exec sleep 1000"),
        names: &["has not asked for updates"],
        handovers: 0,
        loses: false,
        repeats: false,
    },
    Bad {
        name: "dies-on-trial",
        change: || shell("node bot.mjs & sleep 15; exit 3"),
        names: &["its bot's process ended", "exit code 3"],
        handovers: 2,
        loses: false,
        repeats: true,
    },
    // The shell is what fills the memory, or else the kernel would end a process that nobody misses.
    Bad {
        name: "leaks",
        change: || shell("node bot.mjs & sleep 15; exec tail /dev/zero"),
        names: &["its bot's process ended", "OOMKilled"],
        handovers: 2,
        loses: false,
        repeats: true,
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
    ensure!(
        bad.names.iter().any(|name| message.contains(name)),
        "the message names none of {:?}: {message}",
        bad.names
    );
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
    let Counts { lost, dup, .. } = verdict.counts;
    let allowed = Counts {
        lost: if bad.loses { lost } else { 0 },
        dup: if bad.repeats { dup.min(BATCH) } else { 0 },
        ..Counts::default()
    };
    ensure!(verdict.counts == allowed, "it cost messages: {:?}", verdict.counts);
    ensure!(!bad.loses || lost > 0, "it answered");
    let gaps: Vec<_> = verdict.handovers.iter().filter(|handover| handover.at > began).map(|h| h.gap).collect();
    ensure!(gaps.len() == bad.handovers, "{} handovers: {:?}", gaps.len(), verdict.handovers);
    bot.delete().await?;
    Ok(Setback {
        version: bad.name,
        gaps_ms: gaps.iter().map(|gap| gap.as_secs_f64() * 1000.0).collect(),
        lost,
        dup,
        message,
    })
}
