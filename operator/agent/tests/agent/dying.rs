//! What dies without a word: an agent, a bot, both.

use std::time::{Duration, Instant};

use pollux_botapi::{Emulator, Mark, MarkKind, PollRecord, Push};
use pollux_pods::Agent;
use rustix::process::Signal;
use serde_json::json;

use crate::bot::Acks;
use crate::directed::Operator;
use crate::world::{PATIENCE, TTL, World};

#[tokio::test]
async fn a_pod_that_dies_is_followed_within_the_ttl() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    world.load(TTL.as_secs() + 4);
    world.answered(20).await;
    world.emulator.mark(Mark::new(MarkKind::Crash, "kill -9 of the pod")).unwrap();
    let epoch = one.agent.epoch().await;
    let killed = Instant::now();
    one.bot.kill().await;
    one.agent.kill().await;
    let health = two.agent.until("leader", TTL * 2, |h| h["role"] == "ACTIVE").await;
    let silent = killed.elapsed();
    assert!(silent <= TTL + Duration::from_millis(1500), "{silent:?}");
    // The last renewal was at most a fifth of the TTL ago, so a lease that is taken much earlier was taken from the living.
    assert!(silent >= TTL * 7 / 10, "{silent:?}");
    assert_eq!(health["lastTakeover"]["reason"], "ttl");
    assert_eq!(health["lastTakeover"]["from"], "echo-1");
    world.settled().await;
    let verdict = world.verdict();
    assert_eq!(verdict.counts.lost + verdict.crash.lost, 0, "a bot that acknowledges afterwards loses nothing");
    assert_eq!(health["epoch"], epoch + 1);
}

/// Kills an agent and starts it again in the same pod; says when it died.
async fn restart_in_place(world: &World, agent: Agent) -> (Instant, Agent) {
    let pod = agent.pod.clone();
    world.emulator.mark(Mark::new(MarkKind::Crash, "kill -9 of the agent")).unwrap();
    let killed = Instant::now();
    agent.kill().await;
    (killed, pod.start())
}

#[tokio::test]
async fn r35b_an_agent_that_is_restarted_in_place_leads_again_at_once_and_its_bot_lives_on() {
    let world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    let epoch = one.agent.epoch().await;
    world.load(6);
    world.answered(20).await;
    let (killed, again) = restart_in_place(&world, one.agent).await;
    let health = again.until_leader().await;
    // Its TTL has not passed: the file lock of its pod told that the former process is dead.
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}\n{}", killed.elapsed(), again.log());
    assert!(health["epoch"].as_i64().unwrap() > epoch, "another life is another epoch: {health}");
    world.settled().await;
    let verdict = world.verdict();
    assert_eq!(verdict.counts.lost + verdict.crash.lost, 0, "{verdict:#?}");
}

#[tokio::test]
async fn nobody_waits_for_the_ttl_of_an_agent_that_is_restarted_in_place() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    world.load(6);
    world.answered(20).await;
    let (killed, again) = restart_in_place(&world, one.agent).await;
    // The one whose bot asks first leads: the restarted one, or the other one, to which it then gives way.
    while !again.leads().await && !two.agent.leads().await {
        assert!(killed.elapsed() < Duration::from_secs(2), "{}\n{}", again.log(), two.agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.settled().await;
    let verdict = world.verdict();
    assert_eq!(verdict.counts.lost + verdict.crash.lost, 0, "{verdict:#?}");
    assert!(verdict.open_polls_max_crash.max(verdict.open_polls_max) <= 1, "{verdict:#?}");
}

#[tokio::test]
async fn a_bot_that_dies_is_followed_at_once() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::First).await;
    world.load(4);
    world.answered(20).await;
    world.emulator.mark(Mark::new(MarkKind::Crash, "kill -9 of the bot")).unwrap();
    let killed = Instant::now();
    one.bot.kill().await;
    while !two.agent.leads().await {
        assert!(killed.elapsed() < Duration::from_secs(5), "{}\n{}", one.agent.log(), two.agent.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let silent = killed.elapsed();
    assert!(silent < Duration::from_secs(1), "{silent:?}\n{}", one.agent.log());
    world.served().await;
    // What it had acknowledged and not answered died with it, as it would without Pollux; nothing else did.
    let verdict = world.verdict();
    assert!(verdict.counts.lost == 0 && verdict.crash.lost <= 10, "{verdict:#?}");
    assert_eq!((verdict.counts.dup, verdict.crash.dup), (0, 0), "{verdict:#?}");
    assert_eq!(one.agent.lines("handed over")[0]["trigger"], "BotGone");
    assert_eq!(one.agent.health().await["role"], "PASSIVE");

    // The bot's container is restarted: the pod is a candidate again.
    let _bot = world.bot(&one.agent.pod, Acks::First);
    one.agent.until_standby().await;
    two.bot.kill().await;
    one.agent.until_leader().await;
}

#[tokio::test]
async fn a_bot_that_dies_alone_keeps_the_lease_for_its_restart() {
    let world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    let epoch = one.agent.health().await["epoch"].clone();
    one.bot.kill().await;
    one.agent.until("without its bot", PATIENCE, |h| h["botProcess"]["alive"] == false).await;
    let _bot = world.bot(&one.agent.pod, Acks::Afterwards);
    world.load(2);
    world.settled().await;
    let health = one.agent.health().await;
    assert_eq!((&health["role"], &health["epoch"]), (&"ACTIVE".into(), &epoch));
    world.assert_clean();
}

#[tokio::test]
async fn a_restarted_agent_whose_bot_does_not_come_back_gives_the_lease_away() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    let pod = one.agent.pod.clone();
    one.agent.kill().await;
    one.bot.kill().await;
    let _again = pod.start();
    two.agent.until("leader", TTL / 2, |h| h["role"] == "ACTIVE").await;
}

/// How long a poll that is over was open.
fn lasted(poll: &PollRecord) -> Duration {
    poll.ended.map_or(Duration::ZERO, |ended| ended.saturating_sub(poll.arrived))
}

/// In Fast failover the fence is a second ahead and moves on twice a second. The polls are longer than that, so a stopped process
/// leaves one at Telegram; its successor's first poll ends it, and what it is told when it goes on is dropped.
#[tokio::test]
async fn r07_r13_in_fast_failover_polls_are_long_and_the_one_of_a_stopped_leader_harms_nobody() {
    let world = World::new().await;
    Operator::of(&world).await.set(json!({ "failover": "Fast" })).await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    let polls = |e: &Emulator| e.polls(&world.token).unwrap();
    let remaining = |h: &serde_json::Value| h["leaseRemainingSeconds"].as_f64().unwrap_or(9.0);
    one.agent.until("a leader in Fast failover", PATIENCE, |h| remaining(h) < 1.5).await;
    let whole = |e: &Emulator| polls(e).iter().any(|p| p.timeout >= 8 && lasted(p) >= Duration::from_secs(8));
    assert!(world.emulator.until(PATIENCE, whole).await, "a row of short polls: {:#?}", polls(&world.emulator));

    world.emulator.mark(Mark::new(MarkKind::Crash, "SIGSTOP of the agent")).unwrap();
    one.agent.signal(Signal::STOP);
    two.agent.until_leader().await;
    world.emulator.push(&world.token, Push { count: 5, ..Push::default() }).unwrap();
    world.settled().await;
    one.agent.signal(Signal::CONT);
    one.agent.until("a standby again", PATIENCE, |h| h["role"] == "PASSIVE" && h["holder"]["me"] == false).await;
    world.load(1);
    world.settled().await;
    let verdict = world.verdict();
    let counts = (verdict.counts, verdict.crash);
    assert_eq!((counts.0.lost + counts.1.lost, counts.0.dup + counts.1.dup), (0, 0), "{verdict:#?}");
    assert!(verdict.conflicts.get_updates <= 1 && verdict.late == 0, "the one that it left: {verdict:#?}");
    assert!(two.agent.leads().await);
}
