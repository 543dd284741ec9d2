//! A gate on loopback, a bot that asks it, and the emulator behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pollux_botapi::{Emulator, Options, Push};
use pollux_clock::BootInstant;
use pollux_gate::{Config, Event, Gate, Leadership, Settings, Status, Upstream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

pub(crate) const TOKEN: &str = "4242:test-secret_of-the-bot";
/// More than anything here takes; a test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A gate, and the folder that its token is in.
pub(crate) struct Rig {
    pub(crate) gate: Gate,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

/// A bot's connection to a gate.
pub(crate) struct Bot {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

// === impl Rig ===

impl Rig {
    pub(crate) async fn new(url: &str) -> Self {
        Self::with(url, Settings::default()).await
    }

    pub(crate) async fn with(url: &str, settings: Settings) -> Self {
        Self::start(url, settings, None).await
    }

    pub(crate) async fn start(url: &str, settings: Settings, ca_pem: Option<Vec<u8>>) -> Self {
        Self::start_at(Upstream { url: url.parse().unwrap(), ca_pem, proxy: None }, settings).await
    }

    pub(crate) async fn start_at(upstream: Upstream, settings: Settings) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config { token_file: folder.path().join("token"), upstream, settings };
        Self { gate: Gate::start(config, listener).unwrap(), address, folder }
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub(crate) fn lead(&self, epoch: i64) {
        self.lead_for(epoch, Duration::from_secs(600));
    }

    pub(crate) fn lead_for(&self, epoch: i64, time: Duration) {
        self.gate.set_leadership(Leadership::Leader { epoch, fence: BootInstant::now() + time });
    }

    /// The gate's metrics as Prometheus reads them.
    pub(crate) fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.gate.register_metrics(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    pub(crate) async fn bot(&self) -> Bot {
        Bot::connect(self.address).await
    }

    pub(crate) async fn until_in_flight(&self, calls: usize) {
        let begun = Instant::now();
        while self.gate.calls_in_flight() != calls {
            assert!(begun.elapsed() < LIMIT, "{} calls in flight, and never {calls}", self.gate.calls_in_flight());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn until(&self, what: &str, done: impl FnMut(&Status) -> bool) {
        let mut status = self.gate.status();
        let waited = tokio::time::timeout(LIMIT, status.wait_for(done)).await;
        let met = matches!(waited, Ok(Ok(_)));
        assert!(met, "never {what}: {:?}", self.gate.status().borrow());
    }
}

// === impl Bot ===

impl Bot {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, driver }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let begun = Instant::now();
        let answering = async {
            self.sender.ready().await.unwrap();
            let response = self.sender.send_request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status, headers: parts.headers, body, took: begun.elapsed() }
        };
        tokio::time::timeout(LIMIT, answering).await.expect("an answer")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "")).await
    }

    pub(crate) async fn call(&mut self, method: &str, form: &str) -> Answer {
        self.send(request(Method::POST, &format!("/bot{TOKEN}/{method}"), form)).await
    }

    pub(crate) async fn updates(&mut self, offset: i64, timeout: u32) -> Answer {
        self.call("getUpdates", &format!("offset={offset}&timeout={timeout}")).await
    }

    /// Asks for updates in the background; the connection comes back with the answer.
    pub(crate) fn ask(mut self, offset: i64, timeout: u32) -> JoinHandle<(Self, Answer)> {
        tokio::spawn(async move {
            let answer = self.updates(offset, timeout).await;
            (self, answer)
        })
    }

    /// The process dies: the kernel closes its connection.
    pub(crate) async fn die(mut self) {
        self.driver.abort();
        let _ = (&mut self.driver).await;
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    /// The ids of the updates in it.
    pub(crate) fn ids(&self) -> Vec<i64> {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        let json = self.json();
        assert_eq!(json["ok"], true);
        json["result"].as_array().unwrap().iter().map(|update| update["update_id"].as_i64().unwrap()).collect()
    }
}

pub(crate) fn request(method: Method, path: &str, form: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::copy_from_slice(form.as_bytes())))
        .unwrap()
}

pub(crate) async fn emulator() -> Emulator {
    let emulator = Emulator::start(Options::default()).await.unwrap();
    emulator.add_bot(TOKEN, "echo_bot").unwrap();
    emulator
}

pub(crate) fn push(emulator: &Emulator, count: u32) -> Vec<i64> {
    let ids = emulator.push(TOKEN, Push { count, ..Push::default() }).unwrap();
    ids.into_iter().map(i64::from).collect()
}

/// Waits until the emulator has seen so many polls, and returns their number.
pub(crate) async fn polls(emulator: &Emulator, count: usize) {
    let seen = emulator.until(LIMIT, |emulator| emulator.polls(TOKEN).unwrap().len() >= count).await;
    assert!(seen, "{count} polls expected: {:?}", emulator.polls(TOKEN).unwrap());
}

pub(crate) async fn event(events: &mut broadcast::Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    let waiting = async {
        loop {
            let event = events.recv().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("an event")
}
