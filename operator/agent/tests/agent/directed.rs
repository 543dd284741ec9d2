//! Handovers that somebody asks for, and those that do not wait for a bot's handlers.

use std::time::{Duration, Instant};

use pollux_lease::{Observer, Request, Resource, Setting};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bot::{Acks, Bot};
use crate::world::{PATIENCE, TTL, World, eventually};

pub(crate) struct Operator {
    observer: Observer,
    resource: Resource,
}

impl Operator {
    pub(crate) async fn of(world: &World) -> Self {
        let observer = Observer::spawn(world.owner_file.clone());
        let mut state = observer.state();
        let up = state.wait_for(|s| *s == pollux_lease::ObserverState::Up);
        tokio::time::timeout(PATIENCE, up).await.unwrap().unwrap();
        let resource = Resource { cluster: "test".into(), namespace: "default".into(), name: "echo".into() };
        Self { observer, resource }
    }

    async fn ask(&self, id: &str, to_pod: &str) {
        let request = Request { id: id.into(), to_pod: to_pod.into() };
        assert!(self.observer.put_request(&self.resource, &request).await.unwrap());
    }

    pub(crate) async fn set(&self, json: Value) {
        let setting = Setting { generation: 1, eligible: None, json };
        self.observer.put_setting(&self.resource, &setting).await.unwrap();
    }
}

#[tokio::test]
async fn r31_a_request_moves_the_lease_to_the_named_pod_and_back_and_nothing_ends() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::First).await;
    let operator = Operator::of(&world).await;
    world.load(8);
    world.answered(20).await;
    let epoch = one.agent.epoch().await;
    operator.ask("q1", "echo-2").await;
    two.agent.until_leader().await;
    one.agent.until_standby().await;
    assert!(one.agent.ready().await, "it stands by, warm");
    let told = one.agent.lines("handed over");
    assert_eq!(told.len(), 1, "{}", one.agent.log());
    assert_eq!(
        (&told[0]["trigger"], &told[0]["drain"], &told[0]["to"]),
        (&"Manual".into(), &"complete".into(), &"echo-2".into())
    );
    operator.ask("q2", "echo-1").await;
    let health = one.agent.until_leader().await;
    assert_eq!(health["epoch"].as_i64(), Some(epoch + 2), "the old request moved nothing");
    world.settled().await;
    world.assert_clean();
}

#[tokio::test]
async fn r31_a_request_for_a_pod_that_cannot_lead_costs_a_pause_and_nothing_else() {
    let world = World::new().await;
    let (one, _two) = world.pair(Acks::Afterwards).await;
    let operator = Operator::of(&world).await;
    world.load(6);
    world.answered(20).await;
    operator.ask("q1", "echo-9").await;
    eventually("told", || !one.agent.lines("not handed over").is_empty()).await;
    world.settled().await;
    world.assert_clean();
    assert!(one.agent.leads().await, "{}", one.agent.log());
    assert_eq!(one.agent.lines("a handover was asked for").len(), 1, "{}", one.agent.log());
}

/// The successor polls while the old pod's handlers work; its bot gets no SIGTERM before they have finished.
#[tokio::test]
async fn r32_fast_the_hook_waits_for_the_handlers_and_the_successor_does_not() {
    const HANDLER: Duration = Duration::from_secs(3);
    let world = World::new().await;
    let pods = [world.pod("echo-1").await, world.pod("echo-2").await];
    Operator::of(&world).await.set(json!({ "ordering": "Fast" })).await;
    let mut agents = Vec::new();
    let mut bots = Vec::new();
    for pod in &pods {
        agents.push(pod.start());
        pod.wait_ready().await;
        bots.push(Bot::start(&pod.gate(), &world.token, Acks::First, HANDLER));
        agents[0].until_leader().await;
    }
    agents[1].until_standby().await;
    eventually("told of the setting", || agents[0].log().contains("Fast")).await;
    let pushed = world.emulator.push(&world.token, pollux_botapi::Push { count: 3, ..Default::default() }).unwrap();
    let acknowledged = |e: &pollux_botapi::Emulator| {
        e.polls(&world.token).unwrap().last().is_some_and(|poll| poll.offset == pushed[2] + 1)
    };
    assert!(world.emulator.until(PATIENCE, acknowledged).await);
    let began = Instant::now();
    let hook = {
        let pod = pods[0].clone();
        tokio::spawn(async move { pod.exec("drain").await })
    };
    agents[1].until_leader().await;
    let moved = began.elapsed();
    assert!(moved < HANDLER && !hook.is_finished(), "{moved:?}");
    let (status, said, took) = hook.await.unwrap();
    assert!(status.success() && said.contains("handed over to echo-2"), "{said}");
    assert!(took > moved, "{took:?}");
    // As the kubelet does it then.
    bots.remove(0).kill().await;
    world.settled().await;
    world.assert_clean();
    let told = &agents[0].lines("handed over")[0];
    assert!(told["finish_ms"].as_u64().unwrap() >= 1000, "{told}");
}

#[tokio::test]
async fn r35_without_a_candidate_the_lease_is_released_and_updates_wait_at_telegram() {
    let world = World::new().await;
    let mut one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    world.load(1);
    world.settled().await;
    let (status, said, _) = one.agent.pod.exec("drain").await;
    assert!(status.success() && said.contains("nobody was ready"), "{said}");
    one.bot.kill().await;
    assert_eq!(one.agent.terminate(PATIENCE).await.0, Some(0));
    world.emulator.push(&world.token, pollux_botapi::Push { count: 5, ..Default::default() }).unwrap();
    let began = Instant::now();
    let two = world.replica("echo-2", Acks::Afterwards).await;
    two.agent.until_leader().await;
    assert!(began.elapsed() < TTL / 2, "a released lease is free at once: {:?}", began.elapsed());
    world.settled().await;
    world.assert_clean();
}

/// As python-telegram-bot after a 401, or pengrad after an exception in its listener: the process lives, and asks for nothing.
#[tokio::test]
async fn r14_a_leader_whose_bot_has_become_deaf_hands_over_without_a_drain() {
    let world = World::new().await;
    Operator::of(&world).await.set(json!({ "deafAfterSeconds": 10 })).await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    let mut left = TcpStream::connect(one.agent.pod.gate().trim_start_matches("http://")).await.unwrap();
    let request = format!("GET /bot{}/getMe HTTP/1.1\r\nhost: gate\r\n\r\n", world.token);
    left.write_all(request.as_bytes()).await.unwrap();
    assert!(left.read(&mut [0; 512]).await.unwrap() > 0);
    let began = Instant::now();
    one.bot.kill().await;
    one.agent
        .until("alive and deaf", PATIENCE, |h| h["botProcess"]["alive"] == true && h["botProcess"]["deaf"] == true)
        .await;
    two.agent.until_leader().await;
    assert!(began.elapsed() >= Duration::from_secs(9), "a handler may take its time: {:?}", began.elapsed());
    let told = &one.agent.lines("handed over")[0];
    assert_eq!((&told["trigger"], &told["drain"], &told["to"]), (&"BotDeaf".into(), &"none".into(), &"echo-2".into()));
    assert!(!one.agent.ready().await);
    world.load(1);
    world.settled().await;
    world.assert_clean();
}
