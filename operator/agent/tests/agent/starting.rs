//! What an agent does before it can do anything.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::BINARY;
use crate::bot::{Acks, Bot};
use crate::world::{PATIENCE, World, eventually};

#[tokio::test]
async fn a_wrong_configuration_ends_with_all_its_mistakes() {
    let output = Command::new(BINARY)
        .args(["run", "--listen", "0.0.0.0:8081", "--bot", "echo", "--shared-dir", "/does/not/exist"])
        .env_clear()
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for mistake in ["POLLUX_CLUSTER", "POLLUX_NAMESPACE", "POLLUX_POD_UID", "POLLUX_LISTEN", "POLLUX_SHARED_DIR"] {
        assert!(said.contains(mistake), "{mistake} is not in {said}");
    }
    assert!(!said.contains("POLLUX_BOT)"), "{said}");
}

#[tokio::test]
async fn an_empty_token_holds_the_bot_back_and_is_told_and_mended_without_a_restart() {
    let world = World::without_database().await;
    std::fs::write(&world.token_file, "\n").unwrap();
    let pod = world.pod("echo-1").await;
    let agent = pod.start();
    let health = agent
        .until("waiting for its token", PATIENCE, |h| {
            h["waitingFor"][0].as_str().is_some_and(|w| w.contains("is empty"))
        })
        .await;
    assert_eq!(health["role"], "PASSIVE");
    assert!(!agent.ready().await);
    assert_eq!(agent.get("/livez").await.unwrap().0, 200);

    let mut held_back = Command::new(BINARY)
        .arg("wait-ready")
        .env("POLLUX_SHARED_DIR", &pod.shared)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(timeout(Duration::from_secs(1), held_back.wait()).await.is_err(), "the bot would have been started");

    // A bot that comes anyway is not refused: its first call waits.
    let _bot = Bot::start(&pod.gate(), &world.token, Acks::Afterwards, Duration::ZERO);
    std::fs::write(&world.token_file, &world.token).unwrap();
    assert!(timeout(PATIENCE, held_back.wait()).await.unwrap().unwrap().success());
    agent.until("polled by the bot that waited", PATIENCE, |h| h["botProcess"]["polling"] == true).await;
}

#[tokio::test]
async fn what_a_person_must_mend_ends_up_in_the_status_of_the_container() {
    let world = World::without_database().await;
    std::fs::write(&world.token_file, "not a token").unwrap();
    let pod = world.pod("echo-1").await;
    let _agent = pod.start();
    let output = Command::new(BINARY)
        .args(["wait-ready", "--timeout-seconds", "1"])
        .env("POLLUX_SHARED_DIR", &pod.shared)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("does not look like a bot token"), "{said}");
}

#[tokio::test]
async fn without_a_database_the_bot_is_served_as_by_a_standby_and_the_pod_replaces_nobody() {
    let world = World::without_database().await;
    let replica = world.replica("echo-1", Acks::Afterwards).await;
    let health = replica.agent.until("without a database", PATIENCE, |h| h["database"]["error"].is_string()).await;
    assert_eq!(health["role"], "PASSIVE");
    assert_eq!(health["database"]["up"], false);
    replica.agent.until("polled", PATIENCE, |h| h["botProcess"]["polling"] == true).await;
    let (status, said) = replica.agent.get("/readyz").await.unwrap();
    assert!(status == 503 && said.contains("the lease database has not answered yet"), "{status} {said}");
    assert!(world.emulator.polls(&world.token).unwrap().is_empty(), "nobody leads, so nobody polls");
}

#[tokio::test]
async fn the_lease_uri_holds_back_only_the_first_start_of_a_pod() {
    let world = World::without_database().await;
    let good = std::fs::read(&world.uri_file).unwrap();
    std::fs::write(&world.uri_file, "").unwrap();
    let pod = world.pod("echo-1").await;
    let agent = pod.start();
    let hook = pollux_agent::hook::client::status;
    let not_yet = async || {
        let shared = pod.shared.clone();
        let asked = move || hook(&shared).ok().and_then(|report| report.not_yet);
        tokio::task::spawn_blocking(asked).await.unwrap()
    };
    agent
        .until("waiting for the URI", PATIENCE, |h| h["waitingFor"][0].as_str().is_some_and(|w| w.contains("URI")))
        .await;
    assert!(not_yet().await.unwrap().contains("URI"));
    std::fs::write(&world.uri_file, good).unwrap();
    agent.until("not waiting", PATIENCE, |h| h["waitingFor"].as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(not_yet().await, None);
    // The lock that tells a second start from the first one.
    let alive = pod.shared.join("alive");
    eventually("alive", || alive.exists()).await;
    agent.kill().await;

    std::fs::write(&world.uri_file, "").unwrap();
    let agent = pod.start();
    agent
        .until("waiting for the URI", PATIENCE, |h| {
            h["waitingFor"].as_array().is_some_and(|w| w.len() == 1)
                && h["waitingFor"][0].as_str().unwrap().contains("URI")
        })
        .await;
    assert_eq!(not_yet().await, None, "the bot runs already: it is served");
    assert!(!agent.ready().await, "but this replica could not lead");
}

#[tokio::test]
async fn an_agent_waits_for_the_port_of_its_dying_predecessor() {
    let world = World::without_database().await;
    let pod = world.pod("echo-1").await;
    let first = pod.start();
    pod.wait_ready().await;
    let second = pod.start();
    eventually("held up", || second.log().contains("the port is taken")).await;
    first.kill().await;
    second.until("serving", PATIENCE, |h| h["waitingFor"].as_array().is_some_and(Vec::is_empty)).await;
}
