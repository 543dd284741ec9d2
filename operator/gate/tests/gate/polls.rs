//! `getUpdates` over HTTP, with the emulator as Telegram.

use std::time::Duration;

use http::{Method, StatusCode};
use pollux_botapi::{Fault, FaultKind};
use pollux_clock::BootInstant;
use pollux_gate::{Event, Settings, TokenProblem, TokenState};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::{LIMIT, Rig, TOKEN, emulator, event, polls, push, request};

#[tokio::test]
async fn r01_get_updates_is_recognised_in_every_spelling() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    let encoded = TOKEN.replace(':', "%3A");
    for path in [
        format!("/bot{TOKEN}/GETUPDATES?offset=1"),
        format!("/bot{encoded}/get%55pdates?offset=2"),
        format!("/bot{TOKEN}/?method=getUpdates&offset=3"),
        format!("/bot{TOKEN}/test/getUpdates?offset=4"),
    ] {
        let answer = bot.get(&path).await;
        assert_eq!(answer.ids(), [0_i64; 0], "{path}");
    }
    let json = request(Method::POST, &format!("/bot{TOKEN}"), "");
    let (mut parts, _) = json.into_parts();
    parts.headers.insert("content-type", "application/json".parse().unwrap());
    let body = http_body_util::Full::new(r#"{"method":"getUpdates","offset":"5","timeout":0}"#.into());
    assert_eq!(bot.send(http::Request::from_parts(parts, body)).await.ids(), [0_i64; 0]);
    assert_eq!(emulator.polls(TOKEN).unwrap().len(), 0, "a standby forwards none of them");
}

#[tokio::test]
async fn r02_another_token_is_refused_and_never_forwarded() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let mut bot = rig.bot().await;
    for path in ["/bot1:x/getUpdates", "/bot1:x/sendMessage", "/file/bot1:x/a", "/bot/getMe"] {
        let answer = bot.get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let expected = serde_json::json!({"ok": false, "error_code": 401, "description": "Unauthorized"});
        assert_eq!(answer.json(), expected);
    }
    assert_eq!(bot.get("/elsewhere").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn r03_an_empty_answer_looks_like_telegrams() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    let answer = bot.updates(1, 0).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, r#"{"ok":true,"result":[]}"#);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["content-length"], "23");
    assert!(!answer.headers.contains_key("connection"), "kept alive");
}

#[tokio::test]
async fn r05_a_standby_answers_empty_at_the_bots_own_timeout() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    push(&emulator, 3);
    let mut bot = rig.bot().await;
    let answer = bot.updates(1, 1).await;
    assert_eq!(answer.ids(), [0_i64; 0]);
    assert!(answer.took >= Duration::from_millis(990), "{:?}", answer.took);
    assert_eq!(emulator.polls(TOKEN).unwrap().len(), 0);
}

#[tokio::test]
async fn r06_a_held_request_becomes_the_first_poll_within_milliseconds() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let ids = push(&emulator, 2);
    let mut events = rig.gate.events();
    let asking = rig.bot().await.ask(0, 30);
    rig.until("polling", |status| status.bot_polling).await;
    let taken = BootInstant::now();
    rig.lead(7);
    let first = event(&mut events, |event| matches!(event, Event::FirstPoll { .. })).await;
    let Event::FirstPoll { epoch, at } = first else { unreachable!() };
    assert_eq!(epoch, 7);
    println!("takeover to first poll: {:?}", at - taken);
    assert!(at - taken < Duration::from_millis(500), "{:?}", at - taken);
    assert_eq!(asking.await.unwrap().1.ids(), ids);
}

#[tokio::test]
async fn r08_an_answer_after_the_fence_is_not_delivered_and_not_lost() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let ids = push(&emulator, 1);
    let late = Fault::new("getUpdates", FaultKind::Late).seconds(Duration::from_millis(800));
    emulator.fault(TOKEN, late).unwrap();
    rig.lead_for(1, Duration::from_millis(400));
    let (bot, answer) = rig.bot().await.ask(0, 2).await.unwrap();
    assert_eq!(answer.ids(), [0_i64; 0]);
    assert_eq!(emulator.polls(TOKEN).unwrap()[0].updates, 1, "the emulator had answered");
    rig.lead(2);
    assert_eq!(bot.ask(0, 10).await.unwrap().1.ids(), ids, "Telegram gives it again");
}

#[tokio::test]
async fn r10_two_pollers_in_one_process_are_one_poll_upstream() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let older = rig.bot().await.ask(0, 2);
    polls(&emulator, 1).await;
    let newer = rig.bot().await.ask(1, 30);
    polls(&emulator, 2).await;
    assert_eq!(older.await.unwrap().1.ids(), [0_i64; 0]);
    let ids = push(&emulator, 1);
    assert_eq!(newer.await.unwrap().1.ids(), ids);
    let seen = emulator.polls(TOKEN).unwrap();
    assert!(seen.iter().all(|poll| poll.open_polls <= 1), "{seen:?}");
}

#[tokio::test]
async fn r10_a_bot_that_goes_away_takes_its_poll_with_it() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let asking = rig.bot().await.ask(0, 30);
    polls(&emulator, 1).await;
    asking.abort();
    let gone = |emulator: &pollux_botapi::Emulator| emulator.polls(TOKEN).unwrap()[0].gone.is_some();
    assert!(emulator.until(LIMIT, gone).await);
}

#[tokio::test]
async fn r11_errors_of_telegram_are_not_the_bots() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    for kind in [FaultKind::Status(500), FaultKind::Html(502), FaultKind::Reset] {
        emulator.fault(TOKEN, Fault::new("getUpdates", kind)).unwrap();
    }
    let ids = push(&emulator, 1);
    let answer = rig.bot().await.ask(0, 15).await.unwrap().1;
    assert_eq!(answer.ids(), ids);
    assert_eq!(emulator.polls(TOKEN).unwrap().len(), 4);
}

#[tokio::test]
async fn r11_a_flood_wait_is_the_gates_business() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let flood = Fault::new("getUpdates", FaultKind::Status(429)).seconds(Duration::from_secs(1));
    emulator.fault(TOKEN, flood).unwrap();
    let ids = push(&emulator, 1);
    let answer = rig.bot().await.ask(0, 15).await.unwrap().1;
    assert_eq!(answer.ids(), ids);
    assert!(answer.took >= Duration::from_millis(990), "{:?}", answer.took);
}

#[tokio::test]
async fn r12_a_hanging_upstream_does_not_hold_the_bot() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    emulator.fault(TOKEN, Fault::new("getUpdates", FaultKind::Hang)).unwrap();
    let (bot, answer) = rig.bot().await.ask(0, 1).await.unwrap();
    assert_eq!(answer.ids(), [0_i64; 0]);
    let ids = push(&emulator, 1);
    assert_eq!(bot.ask(0, 10).await.unwrap().1.ids(), ids, "over a new connection");
}

#[tokio::test]
async fn r13_at_the_fence_the_poll_is_closed_by_a_reset() {
    let telegram = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new(&format!("http://{}", telegram.local_addr().unwrap())).await;
    let asking = rig.bot().await.ask(0, 30);
    rig.until("polling", |status| status.bot_polling).await;
    let begun = BootInstant::now();
    rig.lead_for(1, Duration::from_millis(700));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = telegram.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                let end = loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => break None,
                        Ok(count) => seen.extend_from_slice(&buffer[..count]),
                        Err(error) => break Some(error.kind()),
                    }
                };
                if seen.windows(10).any(|text| text == b"getUpdates") {
                    let _ = tell.send(end);
                }
            });
        }
    });
    let kind = tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "not an ordinary close");
    assert!(BootInstant::now() - begun >= Duration::from_millis(690));
    asking.abort();
}

#[tokio::test]
async fn r18_a_standby_deletes_no_webhook_and_says_it_did() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    for (method, form) in [("deleteWebhook", "drop_pending_updates=true"), ("setWebHook", ""), ("setWebhook", "url=")] {
        let answer = bot.call(method, form).await;
        let expected = serde_json::json!({"ok": true, "result": true, "description": "Webhook is already deleted"});
        assert_eq!(answer.json(), expected, "{method}");
    }
    assert!(emulator.requests(TOKEN).unwrap().iter().all(|request| request.method == "getMe"));
}

#[tokio::test]
async fn r18_a_leader_deletes_the_webhook_but_never_the_updates() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let ids = push(&emulator, 3);
    rig.lead(1);
    rig.until("leading", |status| status.leading == Some(1)).await;
    let mut bot = rig.bot().await;
    let answer = bot.call("deleteWebhook", "drop_pending_updates=true").await;
    assert_eq!(answer.json()["result"], true);
    let forwarded = |emulator: &pollux_botapi::Emulator| {
        let requests = emulator.requests(TOKEN).unwrap();
        requests.iter().any(|request| request.method.eq_ignore_ascii_case("deleteWebhook"))
    };
    assert!(emulator.until(LIMIT, forwarded).await);
    assert_eq!(bot.updates(0, 10).await.ids(), ids);
}

#[tokio::test]
async fn r19_r21_what_would_break_the_poll_is_refused() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    rig.lead(1);
    let mut bot = rig.bot().await;
    assert_eq!(bot.call("setWebhook", "url=https://example.org/x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(bot.call("logOut", "").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(bot.call("close", "").await.json(), serde_json::json!({"ok": true, "result": true}));
    assert!(emulator.requests(TOKEN).unwrap().iter().all(|request| request.method == "getMe"));
}

#[tokio::test]
async fn r25_the_late_request_of_a_predecessor_costs_nothing() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut events = rig.gate.events();
    emulator.fault(TOKEN, Fault::new("getUpdates", FaultKind::Status(409))).unwrap();
    rig.lead(1);
    let ids = push(&emulator, 1);
    let answer = rig.bot().await.ask(0, 20).await.unwrap().1;
    assert_eq!(answer.ids(), ids);
    assert!(answer.took < Duration::from_secs(3), "at once: {:?}", answer.took);
    event(&mut events, |event| *event == Event::LateRequest).await;
    let text = rig.metrics();
    for line in [
        "pollux_agent_late_requests_total 1",
        "pollux_agent_poll_requests_total{code=\"409\"} 1",
        "pollux_agent_poll_requests_total{code=\"200\"} 1",
        "pollux_agent_updates_received_total{type=\"message\"} 1",
        "pollux_agent_updates_unconfirmed 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("test-secret"));
}

#[tokio::test]
async fn r26_a_refused_token_holds_the_bot_until_the_file_has_a_good_one() {
    let good = TOKEN.replace("test-secret", "rotated-secret");
    let emulator = pollux_botapi::Emulator::start(pollux_botapi::Options::default()).await.unwrap();
    emulator.add_bot(&good, "echo_bot").unwrap();
    let settings = Settings { token_check: Duration::from_millis(20), ..Settings::default() };
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.lead(1);
    rig.until("rejected", |status| status.token == TokenState::Rejected).await;
    let (bot, answer) = rig.bot().await.ask(0, 1).await.unwrap();
    assert_eq!(answer.ids(), [0_i64; 0], "held, not told");
    let asking = bot.ask(0, 20);
    std::fs::write(rig.token_file(), &good).unwrap();
    rig.until("accepted", |status| status.token == TokenState::Accepted).await;
    emulator.push(&good, pollux_botapi::Push::default()).unwrap();
    assert_eq!(asking.await.unwrap().1.ids().len(), 1, "the bot still uses the old token, the gate the new one");
}

#[tokio::test]
async fn r26_the_token_of_another_bot_is_not_taken() {
    let emulator = emulator().await;
    let settings = Settings { token_check: Duration::from_millis(5), ..Settings::default() };
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.until("known", |status| status.bot.is_some()).await;
    std::fs::write(rig.token_file(), "99:of-another-bot").unwrap();
    let mut bot = rig.bot().await;
    for _ in 0..10 {
        assert_eq!(bot.get("/bot99:of-another-bot/getMe").await.status, StatusCode::UNAUTHORIZED);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.gate.bot_id(), 4242);
    rig.until("told", |status| status.token_problem == Some(TokenProblem::OtherBot)).await;
    std::fs::write(rig.token_file(), TOKEN).unwrap();
    rig.until("mended", |status| status.token_problem.is_none()).await;
}

#[tokio::test]
async fn r26_a_token_that_telegram_refuses_does_not_take_the_place_of_one_that_works() {
    let emulator = emulator().await;
    let settings = Settings { token_check: Duration::from_millis(5), ..Settings::default() };
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.lead(1);
    rig.until("known", |status| status.bot.is_some()).await;
    let asking = rig.bot().await.ask(0, 20);
    std::fs::write(rig.token_file(), TOKEN.replace("test-secret", "mistyped")).unwrap();
    rig.until("told", |status| status.token_problem == Some(TokenProblem::Refused)).await;
    emulator.push(TOKEN, pollux_botapi::Push::default()).unwrap();
    assert_eq!(asking.await.unwrap().1.ids().len(), 1, "the old one is used");
    assert_eq!(rig.gate.status().borrow().token, TokenState::Accepted);
}

#[tokio::test]
async fn a_job_can_ask_who_leads() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    let answer = bot.get("/leader").await;
    assert_eq!((answer.status, answer.json()["leader"].clone()), (StatusCode::SERVICE_UNAVAILABLE, false.into()));
    rig.lead_for(3, Duration::from_secs(60));
    rig.until("leading", |status| status.leading == Some(3)).await;
    let answer = bot.get("/leader").await;
    assert_eq!((answer.status, answer.json()["epoch"].clone()), (StatusCode::OK, 3.into()));
    let left = answer.json()["remainingSeconds"].as_f64().unwrap();
    assert!(left > 40.0 && left <= 60.0, "{left}");
    rig.lead_for(3, Duration::from_millis(1));
    rig.until("standby", |status| status.leading.is_none()).await;
    assert_eq!(bot.get("/leader").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bot.get("/healthz").await.status, StatusCode::OK);
}
