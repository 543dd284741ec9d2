//! What the controller sees of agents, and what it and people change under them while they run.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pollux_lease::{BotView, Observer, Resource, Setting};
use serde_json::json;

use crate::bot::Acks;
use crate::world::{PATIENCE, World, eventually};

pub(crate) struct Controller {
    observer: Observer,
    resource: Resource,
}

impl Controller {
    pub(crate) async fn of(world: &World) -> Self {
        let observer = Observer::spawn(world.owner_file.clone());
        let mut state = observer.state();
        tokio::time::timeout(PATIENCE, state.wait_for(|s| *s == pollux_lease::ObserverState::Up))
            .await
            .unwrap()
            .unwrap();
        let resource = Resource { cluster: "test".into(), namespace: "default".into(), name: "echo".into() };
        Self { observer, resource }
    }

    pub(crate) async fn view(&self) -> BotView {
        self.observer.bot(&self.resource).await.unwrap().unwrap()
    }

    /// Waits until the rows show what is wanted.
    async fn until(&self, what: &str, mut wanted: impl FnMut(&BotView) -> bool) -> BotView {
        let began = std::time::Instant::now();
        loop {
            let view = self.view().await;
            if wanted(&view) {
                return view;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {view:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn the_controller_sees_who_leads_what_the_bot_is_and_what_a_handover_cost() {
    let world = World::new().await;
    let (one, two) = world.pair(Acks::Afterwards).await;
    let controller = Controller::of(&world).await;
    let reported = |view: &BotView| view.candidates.iter().all(|c| c.report["username"] == "echo_bot");
    let view = controller.until("two reports", |v| v.candidates.len() == 2 && reported(v)).await;
    assert_eq!(view.lease.holder.as_ref().unwrap().replica.pod, "echo-1");
    for candidate in &view.candidates {
        assert_eq!(candidate.report["tokenAccepted"], true);
        assert_eq!(candidate.report["botId"], 4242);
        assert_eq!(candidate.report["agentVersion"], pollux_agent::VERSION);
        assert!(candidate.ready, "{candidate:?}");
    }
    world.load(3);
    world.answered(20).await;
    let epoch = one.agent.epoch().await;
    let (status, said, _) = one.agent.pod.exec("drain").await;
    assert!(status.success(), "{said}");
    two.agent.until_leader().await;
    let known = |v: &BotView| v.last_handover.as_ref().is_some_and(|h| h.gap.is_some());
    let handover = controller.until("a handover with its gap", known).await.last_handover.unwrap();
    let pods = [handover.from, handover.to].map(|party| party.unwrap().replica.pod);
    assert_eq!(pods, ["echo-1", "echo-2"]);
    assert_eq!((handover.epoch, handover.reason.as_str()), (epoch + 1, "PodDeleted"));
    let drain = handover.drain.unwrap();
    assert_eq!((drain.outcome.as_str(), drain.unacknowledged, drain.owed), ("complete", 0, 0));
    // Between the last poll of one and the first of the other lies one statement and one notification, on a busy machine.
    assert!(handover.gap.unwrap() < Duration::from_secs(1), "{:?}", handover.gap);
    eprintln!("{said}gap {:?}", handover.gap.unwrap());
    world.settled().await;
    world.assert_clean();
}

/// One call of the Bot API, by somebody at that address.
async fn call(root: &str, token: &str, method: &str) -> u16 {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(format!("{root}/bot{token}/{method}").parse().unwrap()).await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn what_the_gate_keeps_from_a_bot_is_reported_once() {
    let world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    let controller = Controller::of(&world).await;
    let gate = one.agent.pod.gate();
    for _ in 0..3 {
        assert_eq!(call(&gate, &world.token, "getUpdates?offset=-1").await, 200);
        assert_eq!(call(&gate, &world.token, "setWebhook?url=https://example.org/hook").await, 400);
    }
    let suppressed = json!(["getUpdates", "setWebhook"]);
    controller.until("two methods", |v| v.candidates[0].report["suppressed"] == suppressed).await;
    let lines = one.agent.lines("a call of the bot was not passed on, or not as it was made");
    assert_eq!(lines.len(), 2, "{lines:#?}");

    // The first conflict is taken for a late request of a predecessor.
    let refused = |v: &BotView| v.candidates[0].report["foreignPoller"]["refusedPolls"].as_u64().unwrap_or_default();
    assert_eq!(refused(&controller.view().await), 0);
    let began = std::time::Instant::now();
    while refused(&controller.view().await) < 2 {
        assert!(began.elapsed() < PATIENCE, "{:#?}", controller.view().await);
        call(&world.emulator.url(), &world.token, "getUpdates?timeout=1").await;
    }
    let view = controller.view().await;
    assert!(view.candidates[0].report["foreignPoller"]["at"].is_string(), "{view:#?}");
    assert!(view.lease.holder.is_some(), "nothing is restarted and nobody deposed by it");
}

#[tokio::test]
async fn settings_take_effect_without_a_restart() {
    let world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    let remaining = |h: &serde_json::Value| h["leaseRemainingSeconds"].as_f64().unwrap_or_default();
    one.agent.until("leader for ten seconds", PATIENCE, |h| remaining(h) > 8.0).await;
    let epoch = one.agent.epoch().await;
    let controller = Controller::of(&world).await;
    let setting = Setting {
        generation: 1,
        eligible: None,
        json: json!({ "leaseDurationSeconds": 5, "longPollTimeoutSeconds": 2 }),
    };
    controller.observer.put_setting(&controller.resource, &setting).await.unwrap();
    controller.until("a TTL of five seconds", |v| v.lease.ttl == Duration::from_secs(5)).await;
    one.agent.until("leader for five seconds", PATIENCE, |h| (0.1..5.0).contains(&remaining(h))).await;
    // Telegram holds an offset that is repeated so soon for three seconds, whatever is asked.
    let shorter = |e: &pollux_botapi::Emulator| {
        let polls = e.polls(&world.token).unwrap();
        polls.iter().rev().take(3).all(|p| p.timeout <= 3) && polls.last().is_some_and(|p| p.timeout > 0)
    };
    assert!(world.emulator.until(PATIENCE, shorter).await, "{:#?}", world.emulator.polls(&world.token).unwrap());
    assert_eq!(one.agent.epoch().await, epoch, "nobody was deposed by it");
    world.assert_clean();
}

#[tokio::test]
async fn a_newer_controllers_settings_reach_a_running_agent_though_the_manifest_is_the_same() {
    let world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    let epoch = one.agent.epoch().await;
    let controller = Controller::of(&world).await;
    let put = async |json| {
        let setting = Setting { generation: 1, eligible: None, json };
        controller.observer.put_setting(&controller.resource, &setting).await.unwrap();
    };
    put(json!({ "leaseDurationSeconds": 10, "longPollTimeoutSeconds": 2 })).await;
    put(json!({
        "leaseDurationSeconds": 10, "longPollTimeoutSeconds": 2, "maxBatch": 3, "deafAfterSeconds": 90, "settleSeconds": "long",
    }))
    .await;
    let bounded = |e: &pollux_botapi::Emulator| e.polls(&world.token).unwrap().last().is_some_and(|p| p.limit == 3);
    assert!(world.emulator.until(PATIENCE, bounded).await, "{:#?}", world.emulator.polls(&world.token).unwrap());
    let before = world.emulator.polls(&world.token).unwrap().len();
    world.load(2);
    world.settled().await;
    let polls = world.emulator.polls(&world.token).unwrap();
    let (all, most) = polls[before..].iter().fold((0, 0), |(all, most), p| (all + p.updates, most.max(p.updates)));
    assert!(all > 30 && most <= 3, "{all} updates, {most} at once");
    let told = one.agent.lines("a setting is out of its range, the default is used");
    assert_eq!(told.iter().map(|line| &line["field"]).collect::<Vec<_>>(), ["settleSeconds"]);
    assert_eq!(one.agent.epoch().await, epoch, "nobody was deposed by it");
    world.assert_clean();
}

#[tokio::test]
async fn a_rotated_token_is_used_without_a_restart_and_lets_new_pods_in() {
    let mut world = World::new().await;
    let one = world.replica("echo-1", Acks::Afterwards).await;
    one.agent.until_leader().await;
    let epoch = one.agent.epoch().await;
    // A bot's id stays when its token is exchanged.
    world.token = format!("{}-2", world.token);
    world.emulator.add_bot(&world.token, "echo_bot").unwrap();
    std::fs::write(&world.token_file, &world.token).unwrap();
    eventually("noticed", || !one.agent.lines("the token was changed").is_empty()).await;
    let new_one_polls = |e: &pollux_botapi::Emulator| !e.polls(&world.token).unwrap().is_empty();
    assert!(world.emulator.until(PATIENCE, new_one_polls).await, "{}", one.agent.log());
    assert_eq!(one.agent.epoch().await, epoch, "the lease outlives the token");

    let two = world.replica("echo-2", Acks::Afterwards).await;
    two.agent.until_standby().await;
    let (status, said, _) = one.agent.pod.exec("drain").await;
    assert!(status.success() && said.contains("handed over to echo-2"), "{said}\n{}", two.agent.log());
    two.agent.until_leader().await;
}
