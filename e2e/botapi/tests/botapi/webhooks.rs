//! Webhooks really deliver; close, logOut and limits of messages.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{Client, PATIENCE, TOKEN, call};
use pollux_botapi::{Emulator, Options, Push, Removal, WebhookOptions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};

const WINDOW: Duration = Duration::from_secs(5);

/// Status, more headers, body.
type Reply = (u16, &'static str, String);

/// A webhook that a test answers for.
#[derive(Clone)]
struct Hook {
    url: String,
    /// What came: head, update.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// The next answers (the last one stays): status, more headers, body.
    answers: Arc<Mutex<Vec<Reply>>>,
    /// One permit for each answer.
    gate: Arc<Semaphore>,
}

impl Hook {
    async fn new(answers: &[(u16, &'static str, &str)]) -> (Self, TcpListener) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let answers: Vec<_> = answers.iter().map(|(status, head, body)| (*status, *head, (*body).to_owned())).collect();
        let (seen, answers) = (Arc::default(), Arc::new(Mutex::new(answers)));
        (Self { url, seen, answers, gate: Arc::new(Semaphore::new(1000)) }, listener)
    }

    async fn start(answers: &[(u16, &'static str, &str)]) -> Self {
        let (hook, listener) = Self::new(answers).await;
        let serving = hook.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hook = serving.clone();
                tokio::spawn(async move { hook.serve(stream).await });
            }
        });
        hook
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut bytes = Vec::new();
        loop {
            let mut part = [0_u8; 4096];
            let Ok(n @ 1..) = stream.read(&mut part).await else { return };
            bytes.extend(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0_usize);
            if body.len() < length {
                continue;
            }
            let update = serde_json::from_str(body).expect("an update");
            self.seen.lock().expect("lock").push((head.to_owned(), update));
            bytes.clear();
            self.gate.acquire().await.expect("open").forget();
            let (status, headers, body) = {
                let mut answers = self.answers.lock().expect("lock");
                if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
            };
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn ids(&self) -> Vec<i64> {
        self.seen.lock().expect("lock").iter().map(|(_, u)| u["update_id"].as_i64().expect("an id")).collect()
    }

    async fn until(&self, count: usize) {
        let came = async {
            while self.ids().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, came).await.is_ok();
        assert!(in_time, "{count} posts should have come: {:?}", self.ids());
    }
}

async fn emulator(flood_limits: bool) -> Emulator {
    let webhooks = WebhookOptions { http: true, ca: None };
    let emulator = Emulator::start(Options { webhooks, flood_limits, ..Options::default() }).await.expect("ports");
    emulator.add_bot(TOKEN, "echo_bot").expect("a token");
    emulator
}

async fn set(emulator: &Emulator, hook: &Hook, more: Value) {
    let mut arguments = json!({"url": hook.url});
    for (name, value) in more.as_object().expect("members") {
        arguments[name] = value.clone();
    }
    let answer = call(&emulator.url(), "setWebhook", &arguments.to_string()).await.json();
    assert_eq!(answer["description"].as_str(), Some("Webhook was set"), "{answer}");
}

fn push(emulator: &Emulator, chat: i64) -> i64 {
    emulator.push(TOKEN, Push { chat, ..Push::default() }).expect("bot")[0].into()
}

async fn info(emulator: &Emulator) -> Value {
    call(&emulator.url(), "getWebhookInfo", "{}").await.json()["result"].clone()
}

async fn empty(emulator: &Emulator) {
    let gone = |e: &Emulator| e.bot_verdict(TOKEN, WINDOW).expect("bot").undelivered == 0;
    assert!(emulator.until(PATIENCE, gone).await, "all should have left the queue");
}

#[tokio::test]
async fn an_update_is_posted_with_the_secret_and_2xx_confirms_it() {
    let (emulator, hook) = (emulator(false).await, Hook::start(&[(200, "", "")]).await);
    let before = push(&emulator, 1);
    set(&emulator, &hook, json!({"secret_token": "s-1_x"})).await;
    hook.until(1).await;
    let after = push(&emulator, 1);
    hook.until(2).await;
    empty(&emulator).await;
    assert_eq!(hook.ids(), [before, after], "also what came before it was set");
    let head = hook.seen.lock().expect("lock")[0].0.clone();
    assert!(
        head.starts_with("post /hook http/1.1") && head.contains("x-telegram-bot-api-secret-token: s-1_x"),
        "{head}"
    );
    let ledger = emulator.ledger(TOKEN).expect("bot");
    assert_eq!(ledger.updates[0].removed.as_ref().map(|r| r.why), Some(Removal::Webhook));
    assert_eq!(ledger.updates[0].deliveries[0].peer.lane, "webhook");
    assert_eq!(emulator.bot_verdict(TOKEN, WINDOW).expect("bot").counts.lost, 2, "nobody answered them");
}

#[tokio::test]
async fn one_chat_in_order_different_chats_at_once_up_to_max_connections() {
    let (emulator, hook) = (emulator(false).await, Hook::start(&[(200, "", "")]).await);
    hook.gate.acquire_many(1000).await.expect("open").forget();
    let ids: Vec<i64> = [1, 1, 2, 3].map(|chat| push(&emulator, chat)).to_vec();
    set(&emulator, &hook, json!({"max_connections": 2})).await;
    hook.until(2).await;
    let mut first = hook.ids();
    first.sort_unstable();
    assert_eq!(first, [ids[0], ids[2]], "two chats, two connections");
    hook.gate.add_permits(1000);
    hook.until(4).await;
    let seen = hook.ids();
    let place = |id| seen.iter().position(|s| *s == id);
    assert!(place(ids[0]) < place(ids[1]), "the chat's first one first: {seen:?}");
    empty(&emulator).await;
}

#[tokio::test]
async fn a_failure_is_tried_again_at_once_then_after_2_4_8_s_and_shows_in_the_info() {
    let (emulator, hook) = (emulator(false).await, Hook::start(&[(500, "", "")]).await);
    set(&emulator, &hook, json!({})).await;
    assert_eq!(info(&emulator).await["last_error_date"], Value::Null);
    let id = push(&emulator, 1);
    hook.until(2).await;
    for (tries, wait) in [(2, 2_u64), (3, 4), (4, 8)] {
        let failed = format!("a failure more: {tries}");
        // The failure is noted before the clock is moved: its answer was read when the info says so.
        for _ in 0..200 {
            let life = emulator.ledger(TOKEN).expect("bot").updates[0].deliveries.len();
            if life == tries {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(emulator.ledger(TOKEN).expect("bot").updates[0].deliveries.len(), tries, "{failed}");
        emulator.advance(Duration::from_secs(wait) - Duration::from_millis(1000));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(hook.ids().len(), tries, "not before {wait} s");
        emulator.advance(Duration::from_millis(1000));
        hook.until(tries + 1).await;
    }
    let shown = info(&emulator).await;
    assert_eq!(
        shown["last_error_message"].as_str(),
        Some("Wrong response from the webhook: 500 Internal Server Error")
    );
    assert!(shown["last_error_date"].as_i64() > Some(1_600_000_000) && shown["pending_update_count"] == json!(1));
    hook.answers.lock().expect("lock")[0].0 = 200;
    emulator.advance(Duration::from_secs(16));
    empty(&emulator).await;
    assert!(hook.ids().iter().all(|seen| *seen == id));
}

#[tokio::test]
async fn retry_after_is_honoured_and_what_would_come_too_late_is_dropped() {
    let (emulator, hook) =
        (emulator(false).await, Hook::start(&[(429, "Retry-After: 100\r\n", ""), (200, "", "")]).await);
    set(&emulator, &hook, json!({})).await;
    push(&emulator, 1);
    hook.until(1).await;
    let noted = |e: &Emulator| !e.ledger(TOKEN).expect("bot").updates[0].deliveries.is_empty();
    assert!(emulator.until(PATIENCE, noted).await);
    emulator.advance(Duration::from_secs(98));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(hook.ids().len(), 1);
    emulator.advance(Duration::from_secs(2));
    hook.until(2).await;
    empty(&emulator).await;
    hook.answers.lock().expect("lock")[0] = (503, "Retry-After: 151\r\n", String::new());
    let kind = pollux_botapi::Kind::CallbackQuery;
    emulator.push(TOKEN, Push { kind, ..Push::default() }).expect("bot");
    empty(&emulator).await;
    let why = emulator.ledger(TOKEN).expect("bot").updates[1].removed.as_ref().map(|r| r.why);
    assert_eq!(why, Some(Removal::Expired));
}

#[tokio::test]
async fn a_call_in_the_webhooks_answer_is_executed_but_not_every_call() {
    let emulator = emulator(false).await;
    let hook = Hook::start(&[(200, "", "{}")]).await;
    hook.gate.acquire_many(1000).await.expect("open").forget();
    set(&emulator, &hook, json!({})).await;
    let id = push(&emulator, 1);
    hook.until(1).await;
    let body = json!({"method": "sendMessage", "chat_id": 1, "text": format!("#{id}")}).to_string();
    hook.answers.lock().expect("lock")[0].2 = body;
    hook.gate.add_permits(1);
    empty(&emulator).await;
    let verdict = emulator.bot_verdict(TOKEN, WINDOW).expect("bot");
    assert_eq!((verdict.counts.lost, verdict.answered), (0, 1));
    hook.answers.lock().expect("lock")[0].2 = json!({"method": "deleteWebhook"}).to_string();
    hook.gate.add_permits(1);
    push(&emulator, 1);
    empty(&emulator).await;
    assert_eq!(info(&emulator).await["url"].as_str(), Some(hook.url.as_str()), "still set");
}

#[tokio::test]
async fn set_webhook_and_get_updates_exclude_each_other() {
    let (emulator, hook) = (emulator(false).await, Hook::start(&[(200, "", "")]).await);
    let url = emulator.url();
    let poll = tokio::spawn(async move { call(&url, "getUpdates", r#"{"timeout":50}"#).await });
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").len() == 1).await);
    set(&emulator, &hook, json!({})).await;
    let killed = poll.await.expect("no panic");
    assert_eq!(killed.status, 409);
    assert!(killed.body.contains("Conflict: terminated by setWebhook request"), "{killed:?}");
    emulator.advance(Duration::from_secs(3));
    let refused = call(&emulator.url(), "getUpdates", "{}").await;
    assert!(refused.status == 409 && refused.body.contains("can't use getUpdates method while webhook is active"));
    let again = call(&emulator.url(), "setWebhook", &json!({"url": hook.url}).to_string()).await.json();
    assert_eq!(again["description"].as_str(), Some("Webhook is already set"));
    let hasty = call(&emulator.url(), "setWebhook", &json!({"url": hook.url}).to_string()).await;
    assert_eq!((hasty.status, hasty.json()["parameters"]["retry_after"].as_u64()), (429, Some(1)));
    for says in ["Webhook was deleted", "Webhook is already deleted"] {
        let answer = call(&emulator.url(), "deleteWebhook", "{}").await.json();
        assert_eq!(answer["description"].as_str(), Some(says));
    }
    for (arguments, says) in [
        (json!({"url": "https://"}), "invalid webhook URL"),
        (json!({"url": hook.url, "secret_token": "a b"}), "unallowed characters"),
        (json!({"url": hook.url, "secret_token": "x".repeat(257)}), "secret token is too long"),
    ] {
        emulator.advance(Duration::from_secs(2));
        let answer = call(&emulator.url(), "setWebhook", &arguments.to_string()).await;
        assert!(answer.status == 400 && answer.body.contains(says), "{answer:?}");
    }
}

#[tokio::test]
async fn https_with_an_own_ca_is_delivered_to_and_without_it_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, cert.cert.pem()).expect("write");
    let key = rustls_pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    for (ca, trusted) in [(Some(ca), true), (None, false)] {
        let (mut hook, listener) = Hook::new(&[(200, "", "")]).await;
        hook.url = format!("https://localhost:{}/hook", listener.local_addr().expect("bound").port());
        let (serving, acceptor) = (hook.clone(), acceptor.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serving.serve(stream).await;
                }
            }
        });
        let webhooks = WebhookOptions { http: false, ca };
        let emulator = Emulator::start(Options { webhooks, ..Options::default() }).await.expect("ports");
        emulator.add_bot(TOKEN, "echo_bot").expect("a token");
        let plain = call(&emulator.url(), "setWebhook", r#"{"url":"http://127.0.0.1:1/x"}"#).await;
        assert!(plain.status == 400 && plain.body.contains("An HTTPS URL must be provided for webhook"), "{plain:?}");
        emulator.advance(Duration::from_secs(2));
        set(&emulator, &hook, json!({})).await;
        push(&emulator, 1);
        if trusted {
            hook.until(1).await;
            empty(&emulator).await;
        } else {
            for _ in 0..200 {
                if info(&emulator).await["last_error_message"].is_string() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let text = info(&emulator).await["last_error_message"].to_string();
            assert!(text.contains("certificate"), "{text}");
            assert!(hook.ids().is_empty());
        }
    }
}

// === close, logOut, limits ===

#[tokio::test]
async fn close_is_refused_in_the_first_ten_minutes_then_restarts_the_bot() {
    let emulator = emulator(false).await;
    let url = emulator.url();
    emulator.advance(Duration::from_secs(601));
    emulator.add_bot("7:young", "young_bot").expect("a token");
    let get = async |path: &str| Client::connect(&url).await.get(path).await.expect("an answer");
    let young = get("/bot7:young/close").await;
    assert_eq!(young.status, 429);
    assert!(young.json()["parameters"]["retry_after"].as_u64().is_some_and(|s| (590..=600).contains(&s)), "{young:?}");
    emulator.advance(Duration::from_secs(600));
    assert_eq!(get("/bot7:young/close").await.status, 200);
    let restart = get("/bot7:young/getMe").await;
    assert_eq!((restart.status, restart.json()["description"].as_str()), (500, Some("Internal Server Error: restart")));
    assert_eq!(get("/bot7:young/getMe").await.status, 200);
}

#[tokio::test]
async fn log_out_empties_the_queue_and_lasts_ten_minutes() {
    let emulator = emulator(false).await;
    push(&emulator, 1);
    assert_eq!(call(&emulator.url(), "logOut", "{}").await.status, 200);
    for method in ["getMe", "getUpdates", "logOut"] {
        let answer = call(&emulator.url(), method, "{}").await;
        assert_eq!((answer.status, answer.json()["description"].as_str()), (400, Some("Logged out")), "{method}");
    }
    assert_eq!(emulator.bot_verdict(TOKEN, WINDOW).expect("bot").undelivered, 0);
    emulator.advance(Duration::from_secs(601));
    assert_eq!(call(&emulator.url(), "getMe", "{}").await.status, 200);
}

#[tokio::test]
async fn flood_limits_are_off_by_default_and_per_chat_and_group_when_on() {
    let send = async |emulator: &Emulator, chat: i64| {
        let answer = call(&emulator.url(), "sendMessage", &json!({"chat_id": chat, "text": "x"}).to_string()).await;
        let wait = answer.json()["parameters"]["retry_after"].as_u64();
        (answer.status, wait)
    };
    let off = emulator(false).await;
    assert_eq!((send(&off, 1).await.0, send(&off, 1).await.0), (200, 200));
    let on = emulator(true).await;
    assert_eq!((send(&on, 1).await, send(&on, 1).await), ((200, None), (429, Some(1))));
    on.advance(Duration::from_secs(1));
    assert_eq!(send(&on, 1).await.0, 200);
    for _ in 0..20 {
        on.advance(Duration::from_secs(1));
        assert_eq!(send(&on, -5).await.0, 200);
    }
    on.advance(Duration::from_secs(1));
    let (status, wait) = send(&on, -5).await;
    assert!(status == 429 && wait.is_some_and(|s| (35..=40).contains(&s)), "{status} {wait:?}");
}
