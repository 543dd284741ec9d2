//! A change of the bot's own database before a new version comes: done once, and nothing is rolled out when it fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use pollux_botapi::Counts;
use serde_json::{Value, json};

use crate::bot::{Library, condition, leader};
use crate::scenarios::{answered_at_least, load, settle};
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, OPERATOR, World};

/// The image of PostgreSQL names no user.
const USER: u32 = 12_345;
const PATIENCE: Duration = Duration::from_secs(150);

/// Three versions: one whose migration works, one whose migration fails, and one whose migration does not end.
pub(crate) async fn before_the_pods(world: &World) -> Result<()> {
    world.psql("CREATE ROLE shop LOGIN PASSWORD 'shop'").await?;
    world.psql("CREATE DATABASE shop OWNER shop").await?;
    let bot = world.bot("migrated", Library::Grammy, 1_000_061).await?;
    let mut spec = bot.spec(1, API_URL);
    spec["podTemplate"]["spec"]["securityContext"] = json!({"runAsUser": USER, "runAsGroup": USER});
    bot.apply(&spec).await?;
    bot.wait_ready(PATIENCE).await?;
    world.emulator.start_load(&bot.token, &load(23)).await?;
    answered_at_least(world, &bot, 20).await?;

    let began = world.emulator.mark_planned(&bot.token, "a version with a migration").await?;
    bot.change(&migration(world, "CREATE TABLE chats (id bigint); SELECT pg_sleep(2)", 60)).await?;
    bot.wait_reason("Progressing", &["Migrating"], PATIENCE).await?;
    let new = bot.wait_ready(PATIENCE).await?;
    bot.wait_reason("Migrated", &["Succeeded"], PATIENCE).await?;

    for (sql, seconds, names) in [
        ("ALTER TABLE chats ADD COLUMN id bigint", 60, "column \"id\" of relation \"chats\" already exists"),
        ("SELECT pg_sleep(600)", 5, "DeadlineExceeded"),
    ] {
        bot.change(&migration(world, sql, seconds)).await?;
        until(&format!("the status to say {names}"), PATIENCE, || async {
            let status = bot.status().await?;
            let migrated = condition(&status, "Migrated").cloned().unwrap_or_default();
            let said =
                migrated["reason"] == "JobFailed" && migrated["message"].as_str().is_some_and(|m| m.contains(names));
            Ok(if said { Look::Yes(()) } else { Look::NotYet(migrated.to_string()) })
        })
        .await?;
        bot.wait_reason("Ready", &["RolledBack"], PATIENCE).await?;
        let leader = leader(&bot.status().await?);
        ensure!(leader.as_ref() == Some(&new), "{new:?} became {leader:?}");
    }
    let jobs =
        world.run("kubectl", &["get", "jobs", "-n", BOTS, "-l", "pollux.dev/bot=migrated", "-o", "name"]).await?;
    ensure!(jobs.lines().count() == 3, "one for each version: {jobs}");
    answered_at_least(world, &bot, world.emulator.verdict(&bot.token).await?.answered + 20).await?;
    let verdict = settle(world, &bot).await?;
    ensure!(verdict.counts == Counts::default(), "it cost messages: {:?}", verdict.counts);
    let handovers = verdict.handovers.iter().filter(|handover| handover.at > began).count();
    ensure!(handovers == 1, "{handovers} handovers");
    bot.delete().await
}

fn migration(world: &World, sql: &str, seconds: u32) -> Value {
    let uri = format!("postgres://shop:shop@pollux-postgres.{OPERATOR}.svc.cluster.local/shop");
    let run = "PATH=\"$PATH:$(echo /usr/lib/postgresql/*/bin)\" exec psql \"$URI\" -X -v ON_ERROR_STOP=1 -c \"$SQL\"";
    json!({"migration": {
        "image": format!("{}/e2e-postgres:dev", world.ground.images()),
        "command": ["sh", "-c", run],
        "env": [{"name": "URI", "value": uri}, {"name": "SQL", "value": sql}],
        "backoffLimit": 0,
        "activeDeadlineSeconds": seconds,
    }})
}
