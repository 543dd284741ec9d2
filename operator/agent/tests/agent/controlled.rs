//! What the controller sees of agents, and what it and people change under them while they run.

use std::time::Duration;

use pollux_lease::{BotView, Observer, Resource, Setting};
use serde_json::json;

use crate::bot::Acks;
use crate::world::{PATIENCE, World, eventually};

struct Controller {
    observer: Observer,
    resource: Resource,
}

impl Controller {
    async fn of(world: &World) -> Self {
        let observer = Observer::spawn(world.owner_file.clone());
        let mut state = observer.state();
        tokio::time::timeout(PATIENCE, state.wait_for(|s| *s == pollux_lease::ObserverState::Up))
            .await
            .unwrap()
            .unwrap();
        let resource = Resource { cluster: "test".into(), namespace: "default".into(), name: "echo".into() };
        Self { observer, resource }
    }

    async fn view(&self) -> BotView {
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
    assert_eq!(handover.drain_outcome.as_deref(), Some("complete"));
    // Between the last poll of one and the first of the other lies one statement and one notification, on a busy machine.
    assert!(handover.gap.unwrap() < Duration::from_secs(1), "{:?}", handover.gap);
    eprintln!("{said}gap {:?}", handover.gap.unwrap());
    world.settled().await;
    world.assert_clean();
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
