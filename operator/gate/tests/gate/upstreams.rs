//! Servers that an emulator is not: TLS with an own CA, connections that die, long answers, and what exactly is asked.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pollux_botapi::{Emulator, Options, Push, TlsFiles};
use pollux_gate::{Config, Gate, Settings, StartError, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{LIMIT, Rig, TOKEN};

/// A server that answers every request with `body`, and tells of each `getUpdates`: its path and its form.
pub(crate) async fn scripted(body: Bytes) -> (String, mpsc::UnboundedReceiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tell, body) = (tell.clone(), body.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (tell, body) = (tell.clone(), body.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let form = request.into_body().collect().await.unwrap().to_bytes();
                    if path.ends_with("getUpdates") {
                        let _ = tell.send((path, String::from_utf8_lossy(&form).into_owned()));
                    }
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(body)))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, told)
}

#[tokio::test]
async fn r07_what_telegram_is_asked_for() {
    let (url, mut told) = scripted(Bytes::from_static(br#"{"ok":true,"result":[{"update_id":9}]}"#)).await;
    let rig = Rig::new(&format!("{url}/prefix/")).await;
    rig.lead_for(1, Duration::from_secs(600));
    let mut bot = rig.bot().await;
    bot.call("getUpdates", "offset=9&limit=100&timeout=30&allowed_updates=%5B%22message%22%5D").await;
    let (path, form) = told.recv().await.unwrap();
    assert_eq!(path, format!("/prefix/bot{TOKEN}/getUpdates"));
    assert_eq!(form, "offset=9&limit=20&timeout=30&allowed_updates=%5B%22message%22%5D");
    bot.get(&format!("/bot{TOKEN}/test/getUpdates?timeout=5&allowed_updates=null")).await;
    let (path, form) = told.recv().await.unwrap();
    assert_eq!(path, format!("/prefix/bot{TOKEN}/test/getUpdates"));
    assert_eq!(form, "limit=20&timeout=5&allowed_updates=%5B%22message%22%5D");
}

#[tokio::test]
async fn r08_a_long_answer_arrives_unchanged_and_an_endless_one_does_not() {
    let update = format!(r#"{{"update_id":1,"message":{{"text":"{}"}}}}"#, "ä".repeat(2_000_000));
    let body = Bytes::from(format!(r#"{{"ok":true,"result":[{update}]}}"#));
    let (url, _told) = scripted(body.clone()).await;
    let rig = Rig::new(&url).await;
    rig.lead(1);
    assert_eq!(rig.bot().await.updates(0, 5).await.body, body);
    let (url, _told) = scripted(Bytes::from(vec![b' '; 6 << 20])).await;
    let rig = Rig::new(&url).await;
    rig.lead(1);
    assert_eq!(rig.bot().await.updates(0, 1).await.ids(), [0_i64; 0]);
}

#[tokio::test]
async fn r12_a_warm_connection_that_was_closed_costs_no_poll() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Serves one poll per connection, announces to keep it, and closes it.
    tokio::spawn(async move {
        let mut id = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            id += 1;
            tokio::spawn(async move {
                let mut buffer = [0; 16384];
                if matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    let body = format!(r#"{{"ok":true,"result":[{{"update_id":{id}}}]}}"#);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let rig = Rig::new(&url).await;
    rig.lead(1);
    let mut bot = rig.bot().await;
    for _ in 0..5 {
        let answer = bot.updates(0, 10).await;
        assert_eq!(answer.ids().len(), 1);
        assert!(answer.took < Duration::from_secs(5), "asked again at once: {:?}", answer.took);
    }
}

#[tokio::test]
async fn tls_with_an_own_ca_serves_polls_and_calls_and_is_needed() {
    let folder = tempfile::TempDir::new().unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let files = TlsFiles { cert: folder.path().join("cert"), key: folder.path().join("key") };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    let emulator = Emulator::start(Options { tls: Some(files), ..Options::default() }).await.unwrap();
    emulator.add_bot(TOKEN, "echo_bot").unwrap();
    emulator.push(TOKEN, Push::default()).unwrap();
    let url = emulator.url().replace("127.0.0.1", "localhost");

    let rig = Rig::start(&url, Settings::default(), Some(ca_cert.pem().into_bytes())).await;
    rig.lead(1);
    let mut bot = rig.bot().await;
    assert_eq!(bot.updates(0, 10).await.ids().len(), 1);
    assert_eq!(bot.call("sendMessage", "chat_id=1&text=hi").await.status, 200);

    let distrustful = Rig::new(&url).await;
    assert_eq!(distrustful.bot().await.call("sendMessage", "chat_id=1&text=hi").await.status, 502);
}

#[tokio::test]
async fn a_gate_that_cannot_work_does_not_start_and_says_why_without_the_token() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("token");
    let start = async |url: &str, ca: Option<&str>| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream { url: url.parse().unwrap(), ca_pem: ca.map(|ca| ca.as_bytes().to_vec()), proxy: None };
        let config = Config { token_file: file.clone(), upstream, settings: Settings::default() };
        Gate::start(config, listener).map(|_| ()).unwrap_err()
    };
    assert!(matches!(start("https://api.telegram.org", None).await, StartError::Token(_)));
    std::fs::write(&file, "12:not a secret?").unwrap();
    let error = start("https://api.telegram.org", None).await.to_string();
    assert!(!error.contains("secret?") && error.contains("@BotFather"), "{error}");
    std::fs::write(&file, TOKEN).unwrap();
    for url in ["ftp://api.telegram.org", "https://user:pw@api.telegram.org", "https://api.telegram.org/?a"] {
        assert!(matches!(start(url, None).await, StartError::Url { .. }), "{url}");
    }
    assert!(matches!(start("https://api.telegram.org", Some("nothing")).await, StartError::Certificates(_)));
}

#[tokio::test]
async fn r06_a_standby_has_a_connection_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let rig = Rig::new(&url).await;
    let asking = rig.bot().await.ask(0, 30);
    // One connection is of the gate's own getMe, and says something; the other one is silent until this process leads.
    let mut silent = None;
    for _ in 0..2 {
        let (stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        let mut first = [0; 4];
        let spoke = tokio::time::timeout(Duration::from_millis(300), stream.peek(&mut first)).await;
        if spoke.is_err() {
            silent = Some(stream);
        }
    }
    let mut silent = silent.expect("a connection without a request");
    rig.lead(1);
    let mut buffer = [0; 4096];
    let count = tokio::time::timeout(LIMIT, silent.read(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..count].starts_with(b"POST /bot"));
    asking.abort();
}
