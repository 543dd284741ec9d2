//! Bots that are started and ended (`polling.adapter: Process`). The server that they connect to is the judge: at no instant
//! are two pods connected.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pollux_pods::Agent;
use rustix::process::Signal;
use tokio::process::Command;

use crate::supervised::{CRASHING, ESCAPING, PARENT, PLAIN, STUBBORN, Stage, Supervised};
use crate::world::{PATIENCE, TTL, eventually};

/// preStop, SIGTERM to the bot, SIGTERM to the agent.
async fn a_pod_ends(script: &'static str) {
    let stage = Stage::new().await;
    let (mut one, two) = stage.pair(script).await;
    assert!(!stage.centre.is_in("echo-2"), "only the leader's program runs");
    let epoch = one.agent.epoch().await;
    let (status, said, _) = one.agent.pod.exec("drain").await;
    assert!(status.success() && said.contains("handed over to echo-2"), "{said}\n{}", one.bot.log());
    assert!(!stage.centre.is_in("echo-1"), "it has ended before the hook returned");
    stage.until_in("echo-2").await;
    assert_eq!(one.bot.terminate().await, 0, "{}", one.bot.log());
    assert_eq!(one.agent.terminate(PATIENCE).await.0, Some(0));
    assert_eq!(two.agent.epoch().await, epoch + 1, "one handover");
    assert_eq!(stage.centre.visits("echo-1").len(), 1, "it was not started again");
    let told = &one.agent.lines("handed over")[0];
    assert_eq!((&told["drain"], &told["level"]), (&"complete".into(), &"INFO".into()), "{told}");
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_pod_that_ends_ends_its_program_before_another_one_starts() {
    a_pod_ends(PLAIN).await;
}

#[tokio::test]
async fn the_children_of_a_program_end_with_it() {
    a_pod_ends(PARENT).await;
}

#[tokio::test]
async fn a_descendant_that_left_its_group_and_ignores_sigterm_is_killed_before_the_handover() {
    a_pod_ends(ESCAPING).await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_when_the_drain_is_over() {
    let stage = Stage::new().await;
    let mut pod = stage.pod("echo-1").await;
    pod.drain_seconds = 2;
    let one = stage.replica(pod, STUBBORN).await;
    stage.until_in("echo-1").await;
    let two = stage.replica(stage.pod("echo-2").await, STUBBORN).await;
    two.agent.until_standby().await;
    let (status, said, took) = one.agent.pod.exec("drain").await;
    assert!(status.success() && said.contains("timed_out"), "{said}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?} {said}");
    stage.until_in("echo-2").await;
    assert!(one.bot.log().contains("was killed"), "{}", one.bot.log());
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn without_the_hook_sigterm_ends_the_program_and_the_other_pod_takes_over_at_once() {
    let stage = Stage::new().await;
    let (mut one, two) = stage.pair(PARENT).await;
    let began = Instant::now();
    assert_eq!(one.bot.terminate().await, 0, "the program's own status\n{}", one.bot.log());
    two.agent.until_leader().await;
    stage.until_in("echo-2").await;
    assert!(began.elapsed() < TTL / 2, "{:?}", began.elapsed());
    assert!(!one.agent.ready().await);
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_supervisor_that_is_killed_takes_its_program_with_it_and_the_other_pod_takes_over_at_once() {
    let stage = Stage::new().await;
    let (mut one, two) = stage.pair(PLAIN).await;
    let began = Instant::now();
    one.bot.signal(Signal::KILL);
    assert_eq!(one.bot.ended().await, 128 + 9);
    stage.until_in("echo-2").await;
    assert!(began.elapsed() < TTL / 2, "{:?}\n{}", began.elapsed(), one.agent.log());
    // The container is started again: the pod is a standby.
    stage.restart(&mut one);
    one.agent.until_standby().await;
    assert!(one.agent.ready().await);
    two.agent.pod.exec("drain").await;
    stage.until_in("echo-1").await;
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_program_that_crashes_ends_its_container_with_its_status_and_the_other_pod_takes_over_at_once() {
    let stage = Stage::new().await;
    let (mut one, _two) = stage.pair(CRASHING).await;
    let began = Instant::now();
    stage.crash(true);
    assert_eq!(one.bot.ended().await, 7, "{}", one.bot.log());
    stage.crash(false);
    stage.until_in("echo-2").await;
    assert!(began.elapsed() < TTL / 2, "{:?}\n{}", began.elapsed(), one.agent.log());
    assert_eq!(one.agent.lines("handed over")[0]["trigger"], "BotGone");
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_program_that_crashes_alone_is_started_again_by_the_same_leader() {
    let stage = Stage::new().await;
    let mut one = stage.replica(stage.pod("echo-1").await, CRASHING).await;
    stage.until_in("echo-1").await;
    let epoch = one.agent.epoch().await;
    stage.crash(true);
    assert_eq!(one.bot.ended().await, 7);
    stage.crash(false);
    stage.restart(&mut one);
    stage.until_in("echo-1").await;
    assert_eq!((one.agent.epoch().await, stage.centre.visits("echo-1").len()), (epoch, 2));
}

#[tokio::test]
async fn a_program_outlives_its_agent_until_the_fence_and_no_longer() {
    let stage = Stage::new().await;
    let (one, two) = stage.pair(PARENT).await;
    one.agent.kill().await;
    let lived = stage.until_out("echo-1").await;
    assert!(lived > TTL / 2 && lived < TTL, "until its fence: {lived:?}\n{}", one.bot.log());
    stage.until_in("echo-2").await;
    assert!(two.agent.leads().await);
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_program_is_ended_at_the_fence_of_an_agent_that_is_stopped() {
    let stage = Stage::new().await;
    let (one, two) = stage.pair(STUBBORN).await;
    one.agent.signal(Signal::STOP);
    let lived = stage.until_out("echo-1").await;
    assert!(lived > TTL / 2 && lived < TTL, "until its fence: {lived:?}\n{}", one.bot.log());
    stage.until_in("echo-2").await;
    one.agent.signal(Signal::CONT);
    one.agent.until_standby().await;
    assert!(two.agent.leads().await);
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn r35b_a_program_runs_on_under_an_agent_that_was_restarted_in_place() {
    let stage = Stage::new().await;
    let one = stage.replica(stage.pod("echo-1").await, PARENT).await;
    stage.until_in("echo-1").await;
    let epoch = one.agent.epoch().await;
    let pod = one.agent.pod.clone();
    one.agent.kill().await;
    let again = pod.start();
    again.until_leader().await;
    assert!(again.epoch().await > epoch, "another life is another epoch");
    let killed = Instant::now();
    // Longer than what the first agent had given.
    while killed.elapsed() < TTL {
        assert!(stage.centre.is_in("echo-1"), "{}", one.bot.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stage.centre.visits("echo-1").len(), 1, "{}", one.bot.log());
    let (status, said, _) = pod.exec("drain").await;
    assert!(status.success() && !stage.centre.is_in("echo-1"), "{said}");
}

#[tokio::test]
async fn a_database_that_is_away_ends_the_program_at_the_fence_and_it_comes_back() {
    let stage = Stage::new().await;
    let (one, two) = stage.pair(PARENT).await;
    stage.world.stop_postgres().await;
    let lived = stage.until_out("echo-1").await;
    assert!(lived > TTL / 2 && lived < TTL, "until its fence: {lived:?}");
    assert!(one.agent.ready().await && two.agent.ready().await, "readiness is not about the database");
    stage.world.start_postgres_again().await;
    let began = Instant::now();
    while !stage.centre.is_in("echo-1") && !stage.centre.is_in("echo-2") {
        assert!(began.elapsed() < PATIENCE, "{}\n{}\n{}", one.bot.log(), one.agent.log(), two.agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.centre.assert_never_two();
}

#[tokio::test]
async fn a_pod_whose_program_cannot_be_executed_is_not_ready_and_says_why_until_it_can() {
    let stage = Stage::new().await;
    let pod = stage.pod("echo-1").await;
    let agent = pod.start();
    pod.wait_ready().await;
    let program = stage.world.dir.path().join("bot");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    let bot = Supervised::start(&pod, &[program.to_str().unwrap()], &[]);
    agent.until("a supervisor", PATIENCE, |h| h["botProcess"]["alive"] == true).await;
    let why = "cannot be executed";
    let began = Instant::now();
    loop {
        let (status, said) = agent.get("/readyz").await.unwrap();
        assert_eq!(status, 503);
        if said.contains(why) && said.contains("Permission denied") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{said}");
    }
    assert!(bot.log().contains(why), "{}", bot.log());
    assert!(!agent.leads().await);
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    agent.until_leader().await;
    assert!(agent.ready().await);
}

/// A real library that speaks MTProto, up to the server's first answer: this one gives none.
#[tokio::test]
async fn telethon_is_connected_in_one_pod_only_and_comes_back_after_a_handover() {
    let stage = Stage::new().await;
    let folder = telethon().await;
    let token = stage.world.dir.path().join("telethon-token");
    std::fs::write(&token, "1:telethon").unwrap();
    let program = folder.join("bot.py").display().to_string();
    let start = |agent: &Agent| {
        let port = stage.centre.door(&agent.pod.name);
        let env = [
            ("PYTHONPATH", folder.join("lib").display().to_string()),
            ("API_ID", "1".to_owned()),
            ("API_HASH", "hash".to_owned()),
            ("TELEGRAM_BOT_TOKEN_FILE", token.display().to_string()),
            ("DATA_CENTRE", format!("2 127.0.0.1 {port}")),
        ];
        // Python may be in the home of whoever runs the tests.
        Supervised::start_as(0, &agent.pod, &["python3", &program], &env)
    };
    let said_hello = |pod: &str| stage.centre.visits(pod).iter().any(|visit| visit.sent > 0);
    let one = stage.pod("echo-1").await;
    let one_agent = one.start();
    one.wait_ready().await;
    let mut one_bot = start(&one_agent);
    eventually("Telethon to begin a session", || said_hello("echo-1")).await;
    let two = stage.pod("echo-2").await;
    let two_agent = two.start();
    two.wait_ready().await;
    let two_bot = start(&two_agent);
    two_agent.until_standby().await;

    let (status, said, took) = one.exec("drain").await;
    assert!(status.success() && said.contains("handed over to echo-2"), "{said}\n{}", one_bot.log());
    assert!(!stage.centre.is_in("echo-1"), "it has ended before the hook returned");
    assert!(took < Duration::from_secs(10), "it heeds SIGTERM: {took:?}");
    eventually("Telethon to begin a session in the other pod", || said_hello("echo-2")).await;
    assert_eq!(one_bot.terminate().await, 0, "{}", one_bot.log());
    assert!(!two_bot.log().contains("Traceback"), "{}", two_bot.log());
    stage.centre.assert_never_two();
}

/// Installs the bot, if it is not there.
async fn telethon() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/bots/install.sh");
    let installed = Command::new(&script).arg("telethon").output().await.unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let folder = Command::new(&script).args(["--print-dir", "telethon"]).output().await.unwrap();
    PathBuf::from(String::from_utf8(folder.stdout).unwrap().trim())
}

#[tokio::test]
async fn a_second_supervisor_of_a_pod_runs_nothing() {
    let stage = Stage::new().await;
    let one = stage.replica(stage.pod("echo-1").await, PLAIN).await;
    stage.until_in("echo-1").await;
    let port = stage.centre.door("somebody");
    let other = Supervised::start(&one.agent.pod, &["bash", "-c", PLAIN], &[("PORT", port.to_string())]);
    eventually("refused", || other.log().contains("another supervisor of this pod is connected")).await;
    assert!(stage.centre.visits("somebody").is_empty());
    assert!(stage.centre.is_in("echo-1"));
}
