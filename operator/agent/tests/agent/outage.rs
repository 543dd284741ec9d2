//! When PostgreSQL is away.

use std::time::{Duration, Instant};

use crate::bot::Acks;
use crate::world::{PATIENCE, TTL, World};

#[tokio::test]
async fn bots_notice_nothing_of_a_database_that_is_away_but_silence() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    world.load(2 * TTL.as_secs() + 10);
    world.answered(20).await;

    for agent in [&one.agent, &two.agent] {
        assert_eq!(agent.gauge("pollux_agent_standby_seconds_without_leader").await, 0.0, "somebody leads");
    }
    world.stop_postgres().await;
    let stopped = Instant::now();
    let health = one.agent.until("standing by", TTL + Duration::from_secs(2), |h| h["role"] == "PASSIVE").await;
    assert!(stopped.elapsed() > TTL / 2, "the lease is used until its fence: {:?}", stopped.elapsed());
    assert_eq!(health["database"]["up"], false);
    assert!(health["database"]["error"].is_string(), "{health}");
    while stopped.elapsed() < 2 * TTL {
        for agent in [&one.agent, &two.agent] {
            let health = agent.health().await;
            assert_eq!(agent.get("/livez").await.unwrap().0, 200);
            assert!(agent.ready().await, "readiness is not about the database: {health}");
            assert!(health["botProcess"]["alive"] == true, "{health}");
            if stopped.elapsed() > TTL {
                assert_eq!(health["role"], "PASSIVE", "{health}");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for agent in [&one.agent, &two.agent] {
        let seconds = agent.gauge("pollux_agent_standby_seconds_without_leader").await;
        // One read the last renewal, the other one's lease ended with its fence: both know of nobody since.
        assert!(seconds > 5.0 && seconds <= stopped.elapsed().as_secs_f64() + 3.0, "{seconds}");
    }
    world.start_postgres_again().await;

    let began = Instant::now();
    while !one.agent.leads().await && !two.agent.leads().await {
        assert!(began.elapsed() < PATIENCE, "{}\n{}", one.agent.log(), two.agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.settled().await;
    let verdict = world.assert_clean();
    assert!(verdict.longest_silence > TTL / 2, "the oracle saw the outage: {verdict:#?}");
}

#[tokio::test]
async fn a_pod_that_ends_while_the_database_is_away_ends_in_time() {
    let world = World::new().await;
    let (mut one, _two) = world.pair(Acks::Afterwards).await;
    world.stop_postgres().await;
    let (status, said, took) = one.agent.pod.exec("drain").await;
    assert!(status.success(), "{said}");
    assert!(took < Duration::from_secs(10), "{took:?} {said}");
    one.bot.kill().await;
    let (code, took) = one.agent.terminate(PATIENCE).await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}
