//! The planned way: a pod that ends hands over before its bot is told.

use std::time::Duration;

use crate::bot::Acks;
use crate::controlled::Controller;
use crate::world::{PATIENCE, World};

/// A pod ends as the kubelet does it: preStop, SIGTERM to the bot, SIGTERM to the agent.
async fn a_pod_ends_under_load(acks: Acks) {
    let world = World::new().await;
    let (mut one, two) = world.pair(acks).await;
    world.load(12);
    world.answered(40).await;

    let epoch = one.agent.epoch().await;
    let pod = one.agent.pod.clone();
    let (status, said, took) = pod.exec("drain").await;
    assert!(status.success() && said.contains("handed over to echo-2"), "{said}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    two.agent.until_leader().await;
    one.bot.kill().await;
    let (code, _) = one.agent.terminate(PATIENCE).await;
    assert_eq!(code, Some(0));

    world.settled().await;
    let verdict = world.assert_clean();
    assert!(verdict.updates >= 200, "{verdict:#?}");
    assert_eq!(two.agent.epoch().await, epoch + 1, "one handover");

    let told = one.agent.lines("handed over");
    assert_eq!(told.len(), 1, "one line tells the whole story:\n{}", one.agent.log());
    for field in ["from", "to", "epoch", "new_epoch", "trigger", "lease", "drain", "drain_ms", "switch_ms", "total_ms"]
    {
        assert!(!told[0][field].is_null(), "{field} is not in {}", told[0]);
    }
    assert_eq!(told[0]["unacknowledged"], 0);
    let took_over = two.agent.lines("took over");
    assert_eq!(took_over.len(), 1, "{}", two.agent.log());
    assert_eq!(took_over[0]["from"], "echo-1");
    assert_eq!(took_over[0]["evidence"], "handover");
}

#[tokio::test]
async fn a_pod_that_ends_loses_and_doubles_nothing_of_a_bot_that_acknowledges_afterwards() {
    a_pod_ends_under_load(Acks::Afterwards).await;
}

#[tokio::test]
async fn a_pod_that_ends_loses_and_doubles_nothing_of_a_bot_that_acknowledges_first() {
    a_pod_ends_under_load(Acks::First).await;
}

/// The kubelet runs preStop before it restarts a container whose liveness or startup probe failed, too. The replica counted as
/// leaving for ever, and was ready: the next rollout ended the other one, and nobody led any more.
#[tokio::test]
async fn a_pod_that_goes_on_after_its_hook_leads_again() {
    let world = World::new().await;
    let mut pod = world.pod("echo-1").await;
    pod.grace_seconds = 0;
    let mut agent = pod.start();
    pod.wait_ready().await;
    let bot = world.bot(&pod, Acks::Afterwards);
    agent.until_leader().await;
    world.load(2);
    world.answered(10).await;
    let (status, said, _) = pod.exec("drain").await;
    assert!(status.success(), "{said}");
    assert!(!agent.ready().await, "a rollout would end the pod that leads");
    bot.kill().await;
    let _bot = world.bot(&pod, Acks::Afterwards);
    assert_eq!(agent.ended(PATIENCE).await, Some(0), "{}", agent.log());
    let again = pod.start();
    again.until_leader().await;
    assert!(again.ready().await);
    world.settled().await;
    world.assert_clean();
}

#[tokio::test]
async fn a_standby_is_a_quiet_day() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    world.load(3);
    world.settled().await;
    let verdict = world.assert_clean();
    assert!(verdict.updates >= 60, "{verdict:#?}");
    let (_, metrics) = two.agent.get("/metrics").await.unwrap();
    let polls = |m: &str| m.lines().any(|l| l.starts_with("pollux_agent_poll_requests_total{"));
    assert!(!polls(&metrics), "only the leader polls: {metrics}");
    let (_, metrics) = one.agent.get("/metrics").await.unwrap();
    assert!(polls(&metrics), "{metrics}");
    for (replica, role, leads) in [(&one, "ACTIVE", "1"), (&two, "PASSIVE", "0")] {
        let health = replica.agent.health().await;
        assert_eq!(health["role"], role);
        assert_eq!(health["holder"]["pod"], "echo-1");
        assert_eq!(health["botProcess"]["token"], "accepted");
        assert!(replica.agent.resident() <= 16 << 20, "{} bytes", replica.agent.resident());
        assert_eq!(health["botProcess"]["username"], "echo_bot");
        assert!(health["heartbeatAgeSeconds"].as_f64().unwrap() < 5.0, "{health}");
        assert!(!leads.eq("1") || health["idleSeconds"].as_f64().unwrap() < 5.0, "{health}");
        assert!(replica.agent.ready().await);
        let (_, metrics) = replica.agent.get("/metrics").await.unwrap();
        let line = format!("pollux_agent_leader{{namespace=\"default\",bot=\"echo\"}} {leads}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
        assert!(metrics.contains("pollux_agent_lease_database_up{namespace=\"default\",bot=\"echo\"} 1"), "{metrics}");
    }
}

#[tokio::test]
async fn the_hook_of_a_standby_returns_at_once_and_moves_nothing() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    let (status, said, took) = two.agent.pod.exec("drain").await;
    assert!(status.success() && said.contains("did not lead"), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(one.agent.leads().await);

    // It has left: the leader's own end finds nobody, or somebody who has not been heard to leave and gives it on at once.
    let (status, said, _) = one.agent.pod.exec("drain").await;
    assert!(status.success() && (said.contains("nobody was ready") || said.contains("to echo-2")), "{said}");
    // And the next pod does not wait for any TTL.
    let three = world.replica("echo-3", Acks::Afterwards).await;
    three.agent.until("leader", Duration::from_secs(3), |h| h["role"] == "ACTIVE").await;
    assert!(!one.agent.leads().await && !two.agent.leads().await);
}

#[tokio::test]
async fn hook_and_sigterm_and_another_hook_are_one_drain() {
    let world = World::new().await;
    let (mut one, two) = world.pair(Acks::Afterwards).await;
    let before = one.agent.epoch().await;
    world.load(4);
    world.answered(20).await;
    let pod = one.agent.pod.clone();
    let ((first, said, _), (second, ..), (code, _)) =
        tokio::join!(pod.exec("drain"), pod.exec("drain"), one.agent.terminate(PATIENCE));
    assert!(first.success() && second.success(), "{said}");
    assert_eq!(code, Some(0));
    one.bot.kill().await;
    let health = two.agent.until_leader().await;
    assert_eq!(health["epoch"].as_i64().unwrap(), before + 1);
    assert_eq!(one.agent.lines("handed over").len(), 1, "{}", one.agent.log());
    world.settled().await;
    world.assert_clean();
}

#[tokio::test]
async fn without_the_hook_sigterm_hands_over() {
    let world = World::new().await;
    let (mut one, two) = world.pair(Acks::Afterwards).await;
    world.load(4);
    world.answered(20).await;
    // The container of a bot that crashes in a loop: no process, so no hook.
    let (code, took) = one.agent.terminate(PATIENCE).await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(20), "{took:?}");
    two.agent.until("leader", Duration::from_secs(1), |h| h["role"] == "ACTIVE").await;
    one.bot.kill().await;
    world.settled().await;
    world.assert_clean();
}

#[tokio::test]
async fn the_hook_of_a_dead_agent_returns_at_once() {
    let world = World::without_database().await;
    let pod = world.pod("echo-1").await;
    let agent = pod.start();
    pod.wait_ready().await;
    agent.kill().await;
    let (status, said, took) = pod.exec("drain").await;
    assert!(status.success() && said.contains("the agent is gone"), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn the_hook_of_a_stopped_agent_does_not_wait_for_ever() {
    let world = World::without_database().await;
    let pod = world.pod("echo-1").await;
    let agent = pod.start();
    pod.wait_ready().await;
    agent.signal(rustix::process::Signal::STOP);
    let (status, said, took) = pod.exec("drain").await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("does not answer") && took < Duration::from_secs(8), "{took:?} {said}");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_goes_on_without_the_bot_and_says_what_it_leaves() {
    let world = World::new().await;
    let mut pod = world.pod("echo-1").await;
    pod.drain_seconds = 2;
    let agent = pod.start();
    pod.wait_ready().await;
    // Its handler takes longer than the drain may.
    let _bot = crate::bot::Bot::start(&pod.gate(), &world.token, Acks::Afterwards, Duration::from_secs(15));
    agent.until_leader().await;
    let two = world.replica("echo-2", Acks::Afterwards).await;
    two.agent.until_standby().await;
    let ids = world.emulator.push(&world.token, pollux_botapi::Push::default()).unwrap();
    let delivered = |e: &pollux_botapi::Emulator| {
        let ledger = e.ledger(&world.token).unwrap();
        ledger.updates.iter().any(|u| u.id == ids[0] && !u.deliveries.is_empty())
    };
    assert!(world.emulator.until(PATIENCE, delivered).await);
    let (status, said, took) = pod.exec("drain").await;
    assert!(status.success() && said.contains("timed_out"), "{said}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    let told = agent.lines("handed over");
    assert_eq!((&told[0]["level"], &told[0]["unacknowledged"]), (&"WARN".into(), &1.into()), "{}", told[0]);
    two.agent.until_leader().await;
    let drain = Controller::of(&world).await.view().await.last_handover.unwrap().drain.unwrap();
    assert_eq!((drain.outcome.as_str(), drain.unacknowledged, drain.owed), ("timed_out", 1, 1), "{drain:?}");
    // It is repeated, not lost.
    world.settled().await;
}
