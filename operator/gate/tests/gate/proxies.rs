//! An HTTP proxy between the gate and Telegram.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use pollux_botapi::Emulator;
use pollux_gate::{Config, Gate, Settings, StartError, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{LIMIT, Rig, TOKEN, emulator, push};

/// A proxy that connects to `peer` whatever name it is asked for, and tells of each request and of the end of each client.
struct Proxy {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<String>,
    ended: mpsc::UnboundedReceiver<Option<std::io::ErrorKind>>,
    open: Arc<AtomicUsize>,
}

// === impl Proxy ===

impl Proxy {
    async fn before(peer: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = mpsc::unbounded_channel();
        let (tell_end, ended) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let count = open.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (tell, tell_end, count) = (tell.clone(), tell_end.clone(), count.clone());
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = tell_end.send(tunnel(client, peer, &tell).await);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, asked, ended, open }
    }

    async fn rig(&self, url: &str) -> Rig {
        let proxy = Some(format!("http://{}", self.address).parse().unwrap());
        let upstream = Upstream { url: url.parse().unwrap(), ca_pem: None, proxy };
        Rig::start_at(upstream, Settings::default()).await
    }
}

/// One client, to its end: how its side of the connection ended.
async fn tunnel(
    mut client: TcpStream,
    peer: SocketAddr,
    tell: &mpsc::UnboundedSender<String>,
) -> Option<std::io::ErrorKind> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    tell.send(String::from_utf8(head).unwrap()).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    let mut server = TcpStream::connect(peer).await.unwrap();
    let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    copied.err().map(|error| error.kind())
}

/// The emulator, under a name that no resolver knows.
async fn hidden() -> (Emulator, SocketAddr, &'static str) {
    let emulator = emulator().await;
    let address = emulator.url().trim_start_matches("http://").parse().unwrap();
    (emulator, address, "http://telegram.invalid")
}

#[tokio::test]
async fn polls_calls_and_get_me_go_through_the_proxy_and_nothing_else_is_resolved() {
    let (emulator, address, url) = hidden().await;
    let mut proxy = Proxy::before(address).await;
    let rig = proxy.rig(url).await;
    rig.lead(1);
    let ids = push(&emulator, 2);
    let mut bot = rig.bot().await;
    assert_eq!(bot.updates(0, 10).await.ids(), ids);
    assert_eq!(bot.call("sendMessage", "chat_id=1&text=hi").await.status, StatusCode::OK);
    assert_eq!(bot.call("getMe", "").await.json()["result"]["username"], "echo_bot");
    // One of the poll, one of the gate's own getMe, which the calls then share.
    for _ in 0..2 {
        let head = proxy.asked.recv().await.unwrap();
        assert!(head.starts_with("CONNECT telegram.invalid:80 HTTP/1.1\r\n"), "{head}");
        assert!(!head.contains("test-secret"), "{head}");
    }
}

#[tokio::test]
async fn r13_through_a_proxy_too_a_poll_ends_at_the_fence_by_a_reset() {
    let (emulator, address, url) = hidden().await;
    let mut proxy = Proxy::before(address).await;
    let rig = proxy.rig(url).await;
    rig.lead_for(1, Duration::from_millis(700));
    let asking = rig.bot().await.ask(0, 30);
    crate::support::polls(&emulator, 1).await;
    let end = tokio::time::timeout(LIMIT, proxy.ended.recv()).await.unwrap().unwrap();
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "not an ordinary close");
    asking.abort();
}

#[tokio::test]
async fn a_standby_has_its_tunnel_ready() {
    let (emulator, address, url) = hidden().await;
    let proxy = Proxy::before(address).await;
    let rig = proxy.rig(url).await;
    rig.until("known", |status| status.bot.is_some()).await;
    let asking = rig.bot().await.ask(0, 30);
    let begun = std::time::Instant::now();
    while proxy.open.load(Ordering::SeqCst) < 2 {
        assert!(begun.elapsed() < LIMIT, "only the pooled connection is there");
        tokio::task::yield_now().await;
    }
    assert_eq!(emulator.polls(TOKEN).unwrap().len(), 0);
    asking.abort();
}

#[tokio::test]
async fn a_proxy_that_refuses_is_an_upstream_that_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = client.read(&mut buffer).await;
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let url = "https://telegram.invalid".parse().unwrap();
    let upstream = Upstream { url, ca_pem: None, proxy: Some(proxy.parse().unwrap()) };
    let rig = Rig::start_at(upstream, Settings::default()).await;
    rig.lead(1);
    let mut bot = rig.bot().await;
    assert_eq!(bot.call("sendMessage", "chat_id=1&text=hi").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(bot.updates(0, 1).await.ids(), [0_i64; 0]);
}

#[tokio::test]
async fn a_proxy_url_that_cannot_be_used_is_refused_and_not_repeated() {
    let folder = tempfile::TempDir::new().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, TOKEN).unwrap();
    for proxy in ["https://10.0.0.1:3128", "socks5://10.0.0.1", "http://me:hunter2@10.0.0.1:3128", "http://10.0.0.1/x"]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = "https://api.telegram.org".parse().unwrap();
        let upstream = Upstream { url, ca_pem: None, proxy: Some(proxy.parse().unwrap()) };
        let config = Config { token_file: token_file.clone(), upstream, settings: Settings::default() };
        let error = Gate::start(config, listener).map(|_| ()).unwrap_err();
        assert!(matches!(error, StartError::Proxy(_)), "{proxy}: {error}");
        assert!(!error.to_string().contains("10.0.0.1"), "{error}");
    }
}
