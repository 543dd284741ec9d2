//! What the lease costs the database: bots that do nothing but keep their leases, with candidates that try their locks.
//!
//! All agents are tasks of this process; to the server each is two sessions of its own, as ever. The settings are the defaults
//! with `failover: Fast`, which is what costs most.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use pollux_lease::Lease;
use pollux_lease_soak::failover::Failover;
use pollux_postgres::Server;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use crate::contender::config;
use crate::world::{TTL, World, about};

mod reading;
mod watch;

use reading::{MODULE, Reading, Spent};
use watch::Watch;

/// How often it is looked, and how often that is told.
const LOOK: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(30);
/// How long it may take until everybody leads or stands by.
const PATIENCE: Duration = Duration::from_secs(120);
/// All updates that are heap-only.
const HOT: f64 = 0.99;
/// Of the renewals that are due, the share that must have been made: less is a machine that measures nothing.
const RENEWED: f64 = 0.9;
/// What an agent reports of its bot, as long as nothing is wrong.
const REPORT: &str = r#"{"botId":4242424242,"username":"an_example_of_a_bot","tokenAccepted":true,"webhookActive":false,"foreignPoller":false,"deaf":false,"agentVersion":"0.1.0"}"#;

/// What `burden` is told.
#[derive(Args, Debug)]
pub(crate) struct Told {
    /// For how long it is measured
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=1440))]
    minutes: u64,
    /// How many bots there are, with two agents each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=200))]
    bots: u16,
}

pub(crate) async fn burden(told: Told) -> Result<()> {
    let connections = (told.bots * 4 + 50).to_string();
    // The log is looked at in the end; all else is as PostgreSQL comes.
    let mut settings =
        vec![("max_connections", connections.as_str()), ("shared_buffers", "128MB"), ("wal_keep_size", "8GB")];
    let counts = Server::has_module(MODULE)?;
    settings.extend(counts.then_some(("shared_preload_libraries", MODULE)));
    let world = World::start(&settings).await?;
    let client = world.client().await?;
    if counts {
        client.batch_execute(&format!("CREATE EXTENSION {MODULE}")).await?;
    }
    let agents = start(&world, &client, told.bots).await?;
    println!("{} bots with two agents each: every leader has a session, every candidate tries its lock", told.bots);
    let before = Reading::take(&world, &client).await?;
    let watch = watch(&world, &client, &before, Duration::from_secs(60 * told.minutes)).await?;
    let after = Reading::take(&world, &client).await?;
    let calm = calm(&client, told.bots).await?;
    let log = after.log_since(&before, &client).await;
    let spent = after.since(&before);
    let mut missed = missed(&spent, told.bots);
    missed.extend(watch.missed());
    missed.extend((!calm).then(|| "in the end a leader without session, or a candidate that does not try".to_owned()));
    missed.extend((spent.epochs > 0).then(|| format!("{} leaders changed", spent.epochs)));
    drop(agents);
    let mut summary = json!({"about": about(&client).await?, "bots": told.bots, "minutes": told.minutes});
    for part in [spent.json(told.bots, log), watch.json(), json!({"leaders_changed": spent.epochs, "missed": missed})] {
        let part = part.as_object().cloned().unwrap_or_default();
        summary.as_object_mut().into_iter().for_each(|summary| summary.extend(part.clone()));
    }
    print_table(&summary);
    println!("{summary}");
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Starts all agents, and waits until all is as it goes on.
async fn start(world: &World, client: &Client, bots: u16) -> Result<Vec<Lease>> {
    let mut agents = Vec::new();
    for bot in 1..=i64::from(bots) {
        world.choose(client, bot, Failover::Fast).await?;
        for place in 0..2 {
            let lease = Lease::spawn(config(world.uri_file(), bot, &format!("bot-{bot}-{place}"), None));
            lease.set_report(serde_json::from_str(REPORT)?);
            lease.set_ready(true);
            agents.push(lease);
            // Not all at once: renewals are to be spread over their period, as those of pods are that started at any time.
            sleep(TTL / 5 / (2 * u32::from(bots))).await;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while !calm(client, bots).await? {
        ensure!(
            Instant::now() < deadline,
            "not everybody has a leader with a session and a candidate within {PATIENCE:?}"
        );
        sleep(Duration::from_millis(200)).await;
    }
    Ok(agents)
}

/// Whether each row names a session, its lock is held, and somebody else tries it.
async fn calm(client: &Client, bots: u16) -> Result<bool> {
    let sql = "
        SELECT (SELECT count(*) FROM pollux.lease WHERE session_key IS NOT NULL),
               (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted),
               (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pollux-lock' AND query LIKE '%try_advisory%')";
    let row = client.query_typed_one(sql, &[]).await?;
    let bots = i64::from(bots);
    Ok((0..3).all(|column| row.get::<_, i64>(column) >= bots))
}

async fn watch(world: &World, client: &Client, before: &Reading, length: Duration) -> Result<Watch> {
    let (mut watch, begun, mut told) = (Watch::default(), Instant::now(), Duration::ZERO);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < length {
        looks.tick().await;
        let since = begun.elapsed();
        watch.look(client, since).await?;
        if since >= told + TELL {
            told += TELL;
            let spent = Reading::take(world, client).await?.since(before);
            let share = spent.both().share() * 100.0;
            println!("{:>5} s: {share:.3} % heap-only, {}", since.as_secs(), watch.text());
        }
    }
    Ok(watch)
}

fn missed(spent: &Spent, bots: u16) -> Vec<String> {
    let mut missed = Vec::new();
    for (name, updates) in [("lease", spent.lease), ("candidate", spent.candidate)] {
        if updates.share() < HOT {
            missed.push(format!("of the updates of {name} only {:.2} % are heap-only", updates.share() * 100.0));
        }
    }
    let due = f64::from(bots) * spent.seconds / (TTL / 5).as_secs_f64();
    if (spent.renewals as f64) < due * RENEWED {
        missed.push(format!("{} renewals of {due:.0} were made", spent.renewals));
    }
    missed
}

fn print_table(summary: &serde_json::Value) {
    println!();
    for (name, value) in summary.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(parts) if name != "about" => {
                parts.iter().for_each(|(part, value)| println!("{:<40} {value:>14}", format!("{name}, {part}")));
            }
            Some(_) => {}
            None => println!("{name:<40} {:>14}", value.to_string()),
        }
    }
    println!();
}
