//! The lanes page in a real headless browser: what a person would see.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::common::{Client, PATIENCE, TOKEN, call, echo_bot, emulator};
use pollux_botapi::{Emulator, Mark, MarkKind, Push};
use serde_json::json;

/// Every switch keeps the browser from reaching out, or from asking a person.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// Starts the browser on the page, with a profile of its own, and returns what it printed.
async fn browse(emulator: &Emulator, options: &[String]) -> String {
    let profile = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(browser());
    command
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--window-size=1280,760", "--virtual-time-budget=2500"])
        .args(options)
        .arg(format!("{}/?minutes=1", emulator.admin_url()));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn browser() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).flat_map(|dir| names.map(|n| dir.join(n))).find(|file| file.exists());
    found.expect("the page is looked at in a real browser: apt-get install chromium")
}

/// Two pods, a clean handover, then a rude third poller that evicts and answers again.
async fn story() -> Emulator {
    let emulator = emulator().await;
    let lanes = ["echo-5c9f7d8b6-old01", "echo-7d9c5b9c9d-new01"];
    let old = tokio::spawn(echo_bot(emulator.lane(lanes[0]).await.expect("port")));
    emulator.push(TOKEN, Push { count: 12, ..Push::default() }).expect("bot");
    assert!(emulator.settled(None, PATIENCE, None).await.expect("bot").settled);
    emulator.mark(Mark::new(MarkKind::Planned, "rollout of echo")).expect("bot");
    old.abort();
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").last().is_some_and(|p| p.gone.is_some())).await);
    tokio::spawn(echo_bot(emulator.lane(lanes[1]).await.expect("port")));
    let ids = emulator.push(TOKEN, Push { count: 8, ..Push::default() }).expect("bot");
    assert!(emulator.settled(None, PATIENCE, None).await.expect("bot").settled);
    let laptop = emulator.lane("a-laptop").await.expect("port");
    call(&laptop, "sendMessage", &json!({"chat_id": 1, "text": format!("#{} again", ids[0])}).to_string()).await;
    let offset = ids[7] + 1;
    let mut rude = Client::connect(&laptop).await;
    rude.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50&offset={offset} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let seen = |e: &Emulator| e.bot_verdict(TOKEN, Duration::ZERO).expect("bot").counts.conflict > 0;
    assert!(emulator.until(PATIENCE, seen).await);
    // The poll of the laptop stays open: its connection lives as long as the emulator.
    tokio::spawn(async move { rude.read().await });
    emulator
}

/// The text between tags, as one line.
fn visible(dom: &str) -> String {
    let body = &dom[dom.find("<main>").expect("a page")..dom.find("<script>").unwrap_or(dom.len())];
    let words = body.split('<').map(|part| part.split_once('>').map_or("", |(_, text)| text));
    words.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_lanes_handovers_duplicates_and_conflicts() {
    let emulator = story().await;
    let text = visible(&browse(&emulator, &["--dump-dom".to_owned()]).await);
    for expected in [
        "1 bot, 20 updates, 2 handovers; 0 lost, 1 answered twice, 1 409",
        "echo_bot ✕ 1 answered twice, 1 visible 409.",
        "lost 0 dup 1 409 1 in queue 0 in work 0 answered 20/20",
        "a-laptop polls.",
        "▸ rollout of echo",
        "anybody",
        "echo-5c9f7d8b6-old01",
        "echo-7d9c5b9c9d-new01",
        "409 (get_updates)",
        "answered again",
        "overlap",
        "Handovers, latest first (2 in all)",
    ] {
        assert!(text.contains(expected), "{expected:?} is not to be seen in: {text}");
    }
    let gap = emulator.bot_verdict(TOKEN, Duration::ZERO).expect("bot").handovers[0].gap.as_secs_f64() * 1000.0;
    let shown = if gap < 9.95 { format!("{gap:.1} ms") } else { format!("{gap:.0} ms") };
    assert!(text.contains(&shown), "{shown:?} is not to be seen in: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_that_all_is_well() {
    let emulator = emulator().await;
    tokio::spawn(echo_bot(emulator.lane("echo-1").await.expect("port")));
    emulator.push(TOKEN, Push { count: 3, ..Push::default() }).expect("bot");
    assert!(emulator.settled(None, PATIENCE, None).await.expect("bot").settled);
    let text = visible(&browse(&emulator, &["--dump-dom".to_owned()]).await);
    assert!(text.contains("✓ Nothing lost, nothing answered twice, no 409. echo-1 polls."), "{text}");
    assert!(!text.contains("does not answer.") || text.contains("Lanes"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_paints_something_in_light_and_dark() {
    let emulator = story().await;
    let dir = std::env::var_os("POLLUX_SCREENSHOTS").map(PathBuf::from);
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = dir.unwrap_or_else(|| scratch.path().to_owned());
    let light = screenshot(&emulator, &dir.join("lanes-light.png"), &[]).await;
    let dark =
        screenshot(&emulator, &dir.join("lanes-dark.png"), &["--blink-settings=preferredColorScheme=0".to_owned()])
            .await;
    assert!(light > 20_000 && dark > 20_000, "an empty page is a small picture: {light}, {dark} bytes");
}

async fn screenshot(emulator: &Emulator, file: &Path, options: &[String]) -> u64 {
    let mut all = vec![format!("--screenshot={}", file.display())];
    all.extend_from_slice(options);
    browse(emulator, &all).await;
    std::fs::metadata(file).expect("a picture").len()
}
