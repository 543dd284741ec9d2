//! The Bot API port as a client on the wire sees it.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use crate::common::{Client, PATIENCE, TOKEN, call, emulator, get};
use pollux_botapi::{Conflict, Emulator, Fault, FaultKind, Options, PollEnd, Push, TlsFiles};
use tokio::io::AsyncReadExt;

const ME: &str = "/bot123456:AAabc-secret/getMe";

async fn wait_for_polls(emulator: &Emulator, count: usize) {
    let seen = emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").len() == count).await;
    assert!(seen, "{count} polls should have arrived: {:?}", emulator.polls(TOKEN));
}

// === paths, methods, arguments ===

#[tokio::test]
async fn texts_of_401_404_and_501() {
    let emulator = emulator().await;
    let expected = [
        ("/", 404, "Not Found"),
        ("/getMe", 404, "Not Found"),
        ("/bot123456:AAabc-secret", 404, "Not Found"),
        ("/bot123456:AAabc-secret/getMeNot", 404, "Not Found: method not found"),
        ("/bot123456:wrong/getMe", 401, "Unauthorized"),
        ("/bot123456/getMe", 401, "Unauthorized: invalid token specified"),
        ("/bot0:x/getMe", 401, "Unauthorized: invalid token specified"),
        ("/bot9:x/close", 400, "Bad Request: the bot has already been closed"),
        ("http://x/bot1:x/getMe", 404, "Not Found: absolute URI is specified in the Request-Line"),
    ];
    for (path, status, text) in expected {
        let answer = get(&emulator.url(), path).await;
        assert_eq!((answer.status, answer.json()["description"].as_str()), (status, Some(text)), "{path}");
        assert_eq!(
            (answer.json()["ok"].as_bool(), answer.json()["error_code"].as_u64()),
            (Some(false), Some(status.into()))
        );
    }
    let mut client = Client::connect(&emulator.url()).await;
    client.send(&format!("PUT {ME} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
    let answer = client.read().await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (501, ""));
}

#[tokio::test]
async fn an_answer_looks_like_the_servers() {
    let emulator = emulator().await;
    let answer = get(&emulator.url(), ME).await;
    let head = answer.head.to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("connection: keep-alive") && head.contains("content-length: "), "{head}");
    assert!(!head.contains("transfer-encoding"), "never chunked: {head}");
    let me = &answer.json()["result"];
    assert_eq!(
        (me["id"].as_i64(), me["is_bot"].as_bool(), me["username"].as_str()),
        (Some(123_456), Some(true), Some("echo_bot"))
    );
}

#[tokio::test]
async fn methods_are_case_insensitive_and_may_be_an_argument() {
    let emulator = emulator().await;
    let bot = "/bot123456%3AAAabc-secret";
    for path in ["/GETME", "/getme", "/test/getMe", "/?method=getMe", "/getMe?method=logOut"] {
        let answer = get(&emulator.url(), &format!("{bot}{path}")).await;
        assert_eq!(answer.json()["result"]["username"].as_str(), Some("echo_bot"), "{path}");
    }
}

#[tokio::test]
async fn arguments_are_read_from_query_form_multipart_json_and_chunks() {
    let emulator = emulator().await;
    let path = format!("/bot{TOKEN}/sendMessage");
    let mut client = Client::connect(&emulator.url()).await;
    let parts = "--X\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n7\r\n--X\r\n\
                 Content-Disposition: form-data; name=\"text\"\r\n\r\nmulti\r\n--X--\r\n";
    let answers = [
        client.get(&format!("{path}?chat_id=7&text=que%72y")).await,
        client.post(&path, "application/x-www-form-urlencoded", "chat_id=7&text=form").await,
        client.post(&path, "multipart/form-data; boundary=X", parts).await,
        client.post(&path, "application/json; charset=utf-8", r#"{"chat_id":7,"text":"json"}"#).await,
        client.post(&format!("{path}?text=query"), "application/json", r#"{"chat_id":"7","text":"json"}"#).await,
        {
            let head = "Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
            let body = "b\r\n{\"chat_id\":\r\nd\r\n7,\"text\":\"c\"}\r\n0\r\n\r\n";
            client.send(&format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n{body}")).await;
            client.read().await
        },
    ];
    let texts: Vec<String> = answers
        .into_iter()
        .map(|a| a.expect("an answer").json()["result"]["text"].as_str().expect("sent").to_owned())
        .collect();
    assert_eq!(texts, ["query", "form", "multi", "json", "query", "c"]);
}

#[tokio::test]
async fn what_libraries_call_at_their_start_is_answered() {
    let emulator = emulator().await;
    let url = emulator.url();
    for method in ["setMyCommands", "deleteMyCommands", "sendChatAction", "answerCallbackQuery", "deleteWebhook"] {
        assert_eq!(call(&url, method, "{}").await.json()["result"].as_bool(), Some(true), "{method}");
    }
    assert_eq!(call(&url, "getMyCommands", "{}").await.json()["result"].as_array().map(Vec::len), Some(0));
    emulator.push(TOKEN, Push { count: 3, ..Push::default() }).expect("bot");
    let info = call(&url, "getWebhookInfo", "{}").await.json();
    assert_eq!((info["result"]["url"].as_str(), info["result"]["pending_update_count"].as_u64()), (Some(""), Some(3)));
    assert_eq!(call(&url, "sendMessage", r#"{"text":"x"}"#).await.status, 400);
    assert_eq!(call(&url, "sendMessage", r#"{"chat_id":1}"#).await.status, 400);
    assert_eq!(call(&url, "logOut", "{}").await.status, 200);
    assert_eq!(call(&url, "getMe", "{}").await.json()["description"].as_str(), Some("Logged out"));
}

// === polling over sockets ===

#[tokio::test]
async fn a_long_poll_is_woken_by_an_update() {
    let emulator = emulator().await;
    let url = emulator.url();
    let poll = tokio::spawn(async move { call(&url, "getUpdates", r#"{"timeout":50}"#).await });
    wait_for_polls(&emulator, 1).await;
    let ids = emulator.push(TOKEN, Push { count: 2, ..Push::default() }).expect("bot");
    let answer = poll.await.expect("no panic");
    assert_eq!(answer.ids(), ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>());
    let text = &answer.json()["result"][0]["message"]["text"];
    assert_eq!(text.as_str(), Some(format!("#{}", ids[0]).as_str()));
}

#[tokio::test]
async fn the_older_poll_reads_the_exact_conflict() {
    let emulator = emulator().await;
    let (a, b) = (emulator.lane("a").await.expect("port"), emulator.lane("b").await.expect("port"));
    let old = tokio::spawn(async move { call(&a, "getUpdates", r#"{"timeout":50}"#).await });
    wait_for_polls(&emulator, 1).await;
    let mut new = Client::connect(&b).await;
    new.send(&format!("GET /bot{TOKEN}/GetUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let answer = old.await.expect("no panic");
    let text = r#"{"ok":false,"error_code":409,"description":"Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"}"#;
    assert_eq!((answer.status, answer.body.as_str()), (409, text));
    let verdict = emulator.bot_verdict(TOKEN, Duration::from_secs(5)).expect("bot");
    assert_eq!((verdict.counts.conflict, verdict.conflicts.get_updates, verdict.open_polls_max), (1, 1, 2));
    assert_eq!((verdict.handovers.len(), verdict.handovers[0].overlap), (1, true));
}

/// Opens a poll, ends its connection with `end`, and polls again from elsewhere.
async fn poll_after(end: impl FnOnce(Client)) -> Emulator {
    let emulator = emulator().await;
    let (a, b) = (emulator.lane("a").await.expect("port"), emulator.lane("b").await.expect("port"));
    let mut old = Client::connect(&a).await;
    old.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    wait_for_polls(&emulator, 1).await;
    end(old);
    let mut new = Client::connect(&b).await;
    new.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    wait_for_polls(&emulator, 2).await;
    let evicted = |e: &Emulator| e.polls(TOKEN).expect("bot")[0].evicted_by.is_some();
    assert!(emulator.until(PATIENCE, evicted).await, "a disconnected poll keeps its slot until it is evicted");
    emulator
}

fn assert_unseen(emulator: &Emulator) {
    let poll = &emulator.polls(TOKEN).expect("bot")[0];
    assert!(poll.gone.is_some() && poll.gone <= poll.ended, "{poll:?}");
    assert_eq!(poll.end, PollEnd::Conflict { cause: Conflict::GetUpdates });
    let verdict = emulator.bot_verdict(TOKEN, Duration::from_secs(5)).expect("bot");
    assert_eq!((verdict.counts.conflict, verdict.conflicts.unseen, verdict.open_polls_max), (0, 1, 1));
    assert!(!verdict.handovers[0].overlap);
}

#[tokio::test]
async fn a_closed_connection_keeps_its_slot_and_its_conflict_is_not_visible() {
    assert_unseen(&poll_after(drop).await);
}

#[tokio::test]
async fn a_reset_connection_keeps_its_slot_and_its_conflict_is_not_visible() {
    let reset = |client: Client| {
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&client.0, linger).expect("linger");
    };
    assert_unseen(&poll_after(reset).await);
}

#[tokio::test]
async fn a_delivery_to_a_closed_connection_is_recorded_as_unusable() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator.url()).await;
    client.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    wait_for_polls(&emulator, 1).await;
    drop(client);
    emulator.push(TOKEN, Push::default()).expect("bot");
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot")[0].end == PollEnd::Answered).await);
    let ledger = emulator.ledger(TOKEN).expect("bot");
    assert!(!ledger.updates[0].deliveries[0].usable, "{ledger:?}");
    assert_eq!(call(&emulator.url(), "getUpdates", "{}").await.ids().len(), 1, "it was not confirmed");
}

// === faults ===

#[tokio::test]
async fn faults_answer_what_the_server_and_its_proxy_do() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator.url()).await;
    for (kind, text) in [
        ("409", "\"error_code\":409,\"description\":\"Conflict: terminated by other getUpdates request"),
        ("429", "\"description\":\"Too Many Requests: retry after 7\",\"parameters\":{\"retry_after\":7}"),
        ("500", "\"description\":\"Internal Server Error: restart\""),
        ("401", "\"description\":\"Unauthorized\""),
        ("502", "<center><h1>502 Bad Gateway</h1></center>"),
    ] {
        let fault = Fault::new("getUpdates", kind.parse().expect("a kind")).seconds(Duration::from_secs(7));
        emulator.fault(TOKEN, fault).expect("bot");
        assert_eq!(client.call("getMe", "{}").await.expect("an answer").status, 200, "another method is not struck");
        let answer = client.call("getUpdates", "{}").await.expect("an answer");
        assert!(answer.status.to_string() == kind && answer.body.contains(text), "{kind}: {answer:?}");
        assert_eq!(answer.head.to_lowercase().contains("retry-after: 7"), kind == "429");
        assert_eq!(answer.head.contains("text/html"), kind == "502");
    }
    let verdict = emulator.bot_verdict(TOKEN, Duration::from_secs(5)).expect("bot");
    assert_eq!((verdict.counts.conflict, verdict.conflicts.injected), (0, 1));
}

#[tokio::test]
async fn a_fault_strikes_as_often_as_it_says_on_the_lane_that_it_says() {
    let emulator = emulator().await;
    let (a, b) = (emulator.lane("a").await.expect("port"), emulator.lane("b").await.expect("port"));
    emulator.fault(TOKEN, Fault::new("*", FaultKind::Status(500)).times(2).on_lane("a")).expect("bot");
    let mut seen = Vec::new();
    for url in [&b, &a, &b, &a, &a] {
        seen.push(call(url, "getMe", "{}").await.status);
    }
    assert_eq!(seen, [200, 500, 200, 500, 200]);
}

#[tokio::test]
async fn reset_is_not_executed_and_reset_after_is() {
    let emulator = emulator().await;
    let ids = emulator.push(TOKEN, Push::default()).expect("bot");
    let text = format!("/bot{TOKEN}/sendMessage?chat_id=1&text=%23{}", ids[0]);
    for (kind, replies) in [(FaultKind::Reset, 0), (FaultKind::ResetAfter, 1)] {
        emulator.fault(TOKEN, Fault::new("sendMessage", kind)).expect("bot");
        let mut client = Client::connect(&emulator.url()).await;
        client.send(&format!("GET {text} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let error = client.0.read_u8().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{kind}: a close is something else");
        assert_eq!(emulator.ledger(TOKEN).expect("bot").updates[0].replies.len(), replies, "{kind}");
    }
}

#[tokio::test]
async fn a_request_that_hangs_is_let_go_when_faults_are_cleared() {
    let emulator = emulator().await;
    emulator.fault(TOKEN, Fault::new("getUpdates", FaultKind::Hang)).expect("bot");
    let url = emulator.url();
    let hanging = tokio::spawn(async move { Client::connect(&url).await.call("getUpdates", "{}").await.is_none() });
    wait_for_polls(&emulator, 1).await;
    assert!(!hanging.is_finished());
    emulator.clear_faults(TOKEN).expect("bot");
    assert!(hanging.await.expect("no panic"), "reset, not answered");
}

#[tokio::test]
async fn a_late_answer_is_executed_at_once() {
    let emulator = emulator().await;
    let delay = Duration::from_millis(200);
    emulator.fault(TOKEN, Fault::new("sendMessage", FaultKind::Late).seconds(delay)).expect("bot");
    let (start, url) = (Instant::now(), emulator.url());
    let late = tokio::spawn(async move { call(&url, "sendMessage", r#"{"chat_id":1,"text":"x"}"#).await });
    assert!(emulator.until(PATIENCE, |e| e.requests(TOKEN).expect("bot").iter().any(|r| r.status == Some(200))).await);
    assert!(!late.is_finished());
    assert_eq!(late.await.expect("no panic").status, 200);
    assert!(start.elapsed() >= delay);
}

// === TLS ===

#[tokio::test]
async fn behind_tls_with_an_own_ca_it_serves_and_sees_senders_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let cert = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&files.cert, cert.cert.pem()).expect("write");
    std::fs::write(&files.key, cert.signing_key.serialize_pem()).expect("write");
    let emulator = Emulator::start(Options { tls: Some(files), ..Options::default() }).await.expect("start");
    emulator.add_bot(TOKEN, "echo_bot").expect("bot");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.cert.der().clone()).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let connect = async || {
        let url = emulator.url().replace("https://", "http://");
        let name = "localhost".try_into().expect("a name");
        Client(connector.connect(name, Client::connect(&url).await.0).await.expect("a handshake"))
    };
    let mut client = connect().await;
    assert_eq!(client.call("getMe", "{}").await.expect("an answer").status, 200);
    client.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    wait_for_polls(&emulator, 1).await;
    drop(client);
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot")[0].gone.is_some()).await);
}
