//! Secrets stay where they are.

use crate::bot::Acks;
use crate::world::{SECRET, World};
use pollux_pods::in_proc;

#[tokio::test]
async fn the_token_and_the_password_are_nowhere_but_in_their_files() {
    let world = World::new().await;
    let uri = std::fs::read_to_string(&world.uri_file).unwrap();
    let password = url::Url::parse(&uri).unwrap().password().map(str::to_owned);
    let password = password.expect("agents log in with a password");
    let mut pod = world.pod("echo-1").await;
    pod.log_level = "trace";
    let agent = pod.start();
    pod.wait_ready().await;
    let bot = world.bot(&pod, Acks::Afterwards);
    agent.until_leader().await;
    world.load(2);
    world.settled().await;
    // A token that is refused, and a path that nobody knows, are told without being shown.
    let _stranger =
        crate::bot::Bot::start(&pod.gate(), &format!("1:{SECRET}"), Acks::Afterwards, std::time::Duration::ZERO);
    world
        .emulator
        .fault(&world.token, pollux_botapi::Fault::new("*", pollux_botapi::FaultKind::Status(401)).times(3))
        .unwrap();
    world.load(1);
    agent.until("rejected", crate::world::PATIENCE, |h| h["botProcess"]["token"] == "rejected").await;

    let health = agent.health().await.to_string();
    let (_, metrics) = agent.get("/metrics").await.unwrap();
    let (_, said, _) = pod.exec("drain").await;
    let log = agent.log();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "the log is as loud as it can be");
    for secret in [SECRET, password.as_str()] {
        for (place, text) in [("log", &log), ("health", &health), ("metrics", &metrics), ("hook", &said)] {
            assert!(!text.contains(secret), "{secret} is in {place}: {text}");
        }
        assert!(!in_proc(agent.pid(), secret), "{secret} is in argv or environ");
    }
    bot.kill().await;
}
