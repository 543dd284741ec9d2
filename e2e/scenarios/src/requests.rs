//! What people ask for while a bot runs: by annotations, by `paused`, and by one push after the other.

use std::time::Duration;

use anyhow::{Result, ensure};
use pollux_botapi::Counts;
use serde_json::{Value, json};

use crate::bot::{Bot, Leader, Library, leader};
use crate::scenarios::{answered_at_least, load, settle, version};
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, World};

const PATIENCE: Duration = Duration::from_secs(150);

/// One after the other, on one bot under load; each costs the handovers that it must.
pub(crate) async fn are_answered(world: &World) -> Result<()> {
    let bot = world.bot("asked", Library::Grammy, 1_000_071).await?;
    bot.apply(&bot.spec(2, API_URL)).await?;
    let first = bot.wait_ready(PATIENCE).await?;
    world.emulator.start_load(&bot.token, &load(29)).await?;
    answered_at_least(world, &bot, 20).await?;
    let began = world.emulator.mark_planned(&bot.token, "requests").await?;

    let ready = world.ready_replicas(&bot).await?;
    let Some(standby) = ready.into_iter().find(|pod| *pod != first.pod) else { anyhow::bail!("nobody stands by") };
    ask(world, &bot, "handover", &format!("{standby}@1")).await?;
    let second = led(&bot, |now| now.pod == standby).await?;

    ask(world, &bot, "restarted-at", "2026-12-01T10:00:00Z").await?;
    let third = led(&bot, |now| now.pod != first.pod && now.pod != standby).await?;
    bot.wait_ready(PATIENCE).await?;

    // Left again for the one before, whose pods come back.
    bot.change(&version(2)).await?;
    let fourth = led(&bot, |now| now.pod != third.pod).await?;
    bot.wait_ready(PATIENCE).await?;
    let undone = revision(&bot.status().await?);
    ask(world, &bot, "undo", &undone).await?;
    bot.wait_reason("Ready", &["RolledBack"], PATIENCE).await?;
    let fifth = led(&bot, |now| now.pod != fourth.pod).await?;

    // A push during the trial of another one: that one hands back first.
    let mut third_version = version(3);
    third_version["analysis"] = json!({"bakeSeconds": 60});
    bot.change(&third_version).await?;
    bot.wait_reason("Progressing", &["Baking"], PATIENCE).await?;
    let mut fourth_version = version(4);
    fourth_version["analysis"] = json!({"bakeSeconds": 2});
    bot.change(&fourth_version).await?;
    let last = bot.wait_ready(PATIENCE).await?;

    bot.change(&json!({"paused": true, "env": version(5)["env"]})).await?;
    bot.wait_reason("Progressing", &["Paused"], PATIENCE).await?;
    let held = leader(&bot.status().await?);
    ensure!(held.as_ref() == Some(&last), "{last:?} became {held:?}");
    bot.change(&json!({"paused": false})).await?;
    bot.wait_ready(PATIENCE).await?;

    let verdict = settle(world, &bot).await?;
    ensure!(verdict.counts == Counts::default(), "it cost messages: {:?}", verdict.counts);
    let handovers = verdict.handovers.iter().filter(|handover| handover.at > began).count();
    // To the standby, to the restarted pod, to version 2 and back, to 3 and back, to 4, to 5.
    ensure!(handovers == 8, "{handovers} handovers: {:?}; {second:?} {fifth:?}", verdict.handovers);
    bot.delete().await
}

async fn ask(world: &World, bot: &Bot, what: &str, value: &str) -> Result<()> {
    let annotation = format!("pollux.dev/{what}={value}");
    world.run("kubectl", &["annotate", "telegrambot", "-n", BOTS, &bot.name, &annotation, "--overwrite"]).await?;
    Ok(())
}

fn revision(status: &Value) -> String {
    status["updateRevision"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Waits until such a leader is there.
async fn led(bot: &Bot, fits: impl Fn(&Leader) -> bool) -> Result<Leader> {
    until(&format!("another leader of {}", bot.name), PATIENCE, || async {
        Ok(match leader(&bot.status().await?) {
            Some(leader) if fits(&leader) => Look::Yes(leader),
            other => Look::NotYet(format!("{other:?}")),
        })
    })
    .await
}
