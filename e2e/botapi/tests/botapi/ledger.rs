//! From a load to the verdict, with small bots on real sockets; the library, the admin port and the binary.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use crate::common::{Client, PATIENCE, TOKEN, call, echo_bot, emulator, get};
use pollux_botapi::{Load, MarkKind, Push, Settled, Verdict};
use serde_json::{Value, json};

const WINDOW: Duration = Duration::from_secs(5);

fn quick_load(count: u64) -> Load {
    Load { rate: 200.0, burst: 8, burst_every: Duration::from_millis(50), count: Some(count), ..Load::default() }
}

#[tokio::test]
async fn a_clean_handover_under_load_loses_and_doubles_nothing() {
    let emulator = emulator().await;
    let a = tokio::spawn(echo_bot(emulator.lane("a").await.expect("port")));
    emulator.load(TOKEN, quick_load(60)).expect("bot");
    assert!(emulator.until(PATIENCE, |e| !e.loading(TOKEN)).await);
    let settled = emulator.settled(Some(TOKEN), PATIENCE, None).await.expect("bot");
    assert_eq!(settled, Settled { settled: true, pending: 0, unanswered: 0 });
    a.abort();
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").last().is_some_and(|p| p.gone.is_some())).await);
    let b = tokio::spawn(echo_bot(emulator.lane("b").await.expect("port")));
    emulator.load(TOKEN, quick_load(60)).expect("bot");
    assert!(emulator.until(PATIENCE, |e| !e.loading(TOKEN)).await);
    assert!(emulator.settled(None, PATIENCE, None).await.expect("bot").settled);
    b.abort();
    let verdict = emulator.bot_verdict(TOKEN, WINDOW).expect("bot");
    assert_eq!((verdict.updates, verdict.answered, verdict.undelivered), (120, 120, 0));
    assert_eq!((verdict.counts.lost, verdict.counts.dup, verdict.counts.conflict), (0, 0, 0));
    assert_eq!((verdict.open_polls_max, verdict.in_windows, verdict.handovers.len()), (1, 120, 1));
    let handover = &verdict.handovers[0];
    assert_eq!((handover.from.as_str(), handover.to.as_str(), handover.overlap), ("a", "b", false));
    let ledger = emulator.ledger(TOKEN).expect("bot");
    let first = &ledger.updates[0];
    assert_eq!((first.deliveries[0].peer.lane.as_str(), first.replies[0].peer.lane.as_str()), ("a", "a"));
    assert_eq!(first.removed.as_ref().and_then(|r| r.lane.as_deref()), Some("a"));
}

#[tokio::test]
async fn waiting_for_settled_state_ends_at_its_limit_or_when_nothing_moves() {
    let emulator = emulator().await;
    emulator.push(TOKEN, Push { count: 2, ..Push::default() }).expect("bot");
    let expected = Settled { settled: false, pending: 2, unanswered: 0 };
    assert_eq!(emulator.settled(None, Duration::from_millis(20), None).await.expect("bot"), expected);
    let ids = call(&emulator.url(), "getUpdates", "{}").await.ids();
    call(&emulator.url(), "getUpdates", &json!({"offset": ids[1]}).to_string()).await;
    let quiet = Some(Duration::from_millis(20));
    let expected = Settled { settled: false, pending: 1, unanswered: 1 };
    assert_eq!(emulator.settled(None, PATIENCE, quiet).await.expect("bot"), expected);
    assert!(emulator.settled(Some("9:unknown"), PATIENCE, None).await.is_err());
}

/// What never comes into the queue has no number, so the ledger cannot say LOST: a list of allowed updates that is passed on
/// wrongly would go unseen.
#[tokio::test]
async fn updates_that_the_allowed_ones_keep_out_are_counted() {
    let emulator = emulator().await;
    call(&emulator.url(), "getUpdates", r#"{"allowed_updates": ["callback_query"]}"#).await;
    assert!(emulator.push(TOKEN, Push { count: 3, ..Push::default() }).expect("bot").is_empty());
    let verdict = emulator.bot_verdict(TOKEN, WINDOW).expect("bot");
    assert_eq!((verdict.updates, verdict.refused), (0, 3));
}

// === the admin port ===

async fn post(url: &str, path: &str, body: &Value) -> (u16, Value) {
    let answer = Client::connect(url).await.post(path, "application/json", &body.to_string()).await.expect("an answer");
    (answer.status, answer.json())
}

async fn delete(url: &str, path: &str) -> u16 {
    let mut client = Client::connect(url).await;
    client.send(&format!("DELETE {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    client.read().await.expect("an answer").status
}

#[tokio::test]
async fn the_admin_port_does_what_the_library_does() {
    let emulator = emulator().await;
    let (admin, url) = (emulator.admin_url(), emulator.url());
    for (path, body) in [
        ("/bots", json!({"token": "77:other", "username": "other_bot"})),
        ("/lanes", json!({"ip": "127.0.0.1", "pod": "echo-7d9c-x2x4z"})),
        ("/faults", json!({"token": TOKEN, "method": "getUpdates", "kind": "429", "count": 1, "seconds": 3})),
        ("/load", json!({"token": "77:other", "rate": 0.5, "burst": 2, "burst_every": 30, "chats": 3, "seed": 4})),
    ] {
        assert_eq!(post(&admin, path, &body).await.0, 200, "{path}");
    }
    let (_, pushed) = post(&admin, "/push", &json!({"token": TOKEN, "count": 2, "chat": 5})).await;
    assert_eq!(pushed["ids"].as_array().map(Vec::len), Some(2));
    let (_, mark) =
        post(&admin, "/marks", &json!({"token": TOKEN, "text": "kill", "kind": "crash", "after": 60})).await;
    assert!(mark["at_ms"].as_f64() > Some(0.0), "{mark}");
    assert_eq!(call(&url, "getUpdates", "{}").await.status, 429);
    assert_eq!(call(&url, "getUpdates", "{}").await.ids().len(), 2);
    assert_eq!(delete(&admin, "/load?token=77:other").await, 200);
    assert!(!emulator.loading("77:other"));

    let of_bot = |path: &str| format!("{path}?token={TOKEN}");
    let ledger = get(&admin, &of_bot("/ledger")).await.json();
    assert_eq!(ledger["updates"][0]["deliveries"][0]["lane"].as_str(), Some("echo-7d9c-x2x4z"));
    let polls = get(&admin, &of_bot("/polls")).await.json();
    assert_eq!((polls[0]["end"].as_str(), polls[0]["kind"].as_str()), (Some("fault"), Some("429")));
    let verdict: Verdict = serde_json::from_value(get(&admin, "/verdict?window=2").await.json()).expect("a verdict");
    assert_eq!((verdict.total.bots, verdict.total.undelivered), (2, 2));
    let one = get(&admin, &of_bot("/verdict")).await.json();
    assert_eq!((one["lost"].as_u64(), one["marks"][0]["kind"].as_str()), (Some(0), Some("crash")));
    assert!(!one.to_string().contains("secret"), "a verdict never shows a token");
    let settled = get(&admin, "/settled?timeout=0.02").await.json();
    assert_eq!((settled["settled"].as_bool(), settled["pending"].as_u64()), (Some(false), Some(2)));
    assert_eq!(get(&admin, "/healthz").await.body, "ok");
}

#[tokio::test]
async fn a_fault_without_a_count_strikes_until_it_is_removed() {
    let emulator = emulator().await;
    let (admin, url) = (emulator.admin_url(), emulator.url());
    for fault in [json!({"token": TOKEN, "kind": "401"}), json!({"token": TOKEN, "kind": "401", "count": null})] {
        assert_eq!(post(&admin, "/faults", &fault).await.0, 200);
        for _ in 0..3 {
            assert_eq!(call(&url, "getMe", "{}").await.status, 401);
        }
        assert_eq!(delete(&admin, &format!("/faults?token={TOKEN}")).await, 200);
        assert_eq!(call(&url, "getMe", "{}").await.status, 200);
    }
}

#[tokio::test]
async fn the_admin_port_says_what_is_wrong() {
    let emulator = emulator().await;
    let admin = emulator.admin_url();
    for (path, body, status, says) in [
        ("/push", json!({"token": "9:x"}), 404, "no bot has this token"),
        ("/push", json!({"token": TOKEN, "cuont": 2}), 400, "unknown field `cuont`"),
        ("/faults", json!({"token": TOKEN, "kind": "explode"}), 400, "reset, reset-after, hang or late"),
        ("/load", json!({"token": TOKEN, "rate": -1}), 400, "rate: 0, or 0.001"),
        ("/bots", json!({"token": "nonsense", "username": "x"}), 400, "123456:secret"),
        ("/nothing", json!({}), 404, "/nothing"),
    ] {
        let (got, error) = post(&admin, path, &body).await;
        let text = error["error"].as_str().unwrap_or_default();
        assert!(got == status && text.contains(says), "{path}: {got} {text}");
    }
}

#[tokio::test]
async fn marks_of_kind_crash_move_losses_apart() {
    let emulator = emulator().await;
    let ids = {
        emulator.push(TOKEN, Push::default()).expect("bot");
        call(&emulator.url(), "getUpdates", "{}").await.ids()
    };
    call(&emulator.url(), "getUpdates", &json!({"offset": ids[0] + 1}).to_string()).await;
    assert_eq!(emulator.verdict(WINDOW).total.counts.lost, 1);
    emulator.mark(pollux_botapi::Mark::new(MarkKind::Crash, "kill -9").of(TOKEN)).expect("bot");
    let total = emulator.verdict(WINDOW).total;
    assert_eq!((total.counts.lost, total.crash.lost), (0, 1));
}

// === the binary ===

#[tokio::test]
async fn the_binary_needs_no_file_and_ends_at_sigterm() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pollux-botapi"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .current_dir("/")
        .env_clear()
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut url = || {
        let line = lines.next().expect("a line").expect("text");
        line[line.find("http://").expect("a URL")..].to_owned()
    };
    let (api, admin) = (url(), url());
    let body = json!({"token": TOKEN, "username": "echo_bot"});
    assert_eq!(post(&admin, "/bots", &body).await.0, 200);
    assert_eq!(call(&api, "getMe", "{}").await.status, 200);
    assert!(get(&admin, "/").await.body.contains("<title>Pollux: lanes</title>"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("its own child");
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("a status");
    assert!(status.success(), "{status}");
}
