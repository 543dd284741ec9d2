//! The emulator's admin port, reached through the API server's service proxy, so that the same code works on any cluster
//! that a kubeconfig leads to and no port has to be opened anywhere.

use std::time::Duration;

use anyhow::{Context, Result};
use pollux_botapi::{BotVerdict, Ledger, Load, Mark, MarkKind, PollRecord};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How far before the mark of a crash its window begins: a message delivered a moment earlier dies with the process.
pub(crate) const CRASH_BEFORE: Duration = Duration::from_secs(10);

/// The emulator of the Bot API as it runs in the cluster.
#[derive(Clone)]
pub(crate) struct Emulator {
    client: kube::Client,
    base: String,
}

// === impl Emulator ===

impl Emulator {
    /// The emulator behind the Service `name` in `namespace`, whose admin port is called `admin`.
    pub(crate) fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        let base = format!("/api/v1/namespaces/{namespace}/services/{name}:admin/proxy");
        Self { client, base }
    }

    /// Makes a bot known under its token.
    pub(crate) async fn add_bot(&self, token: &str, username: &str) -> Result<()> {
        self.post::<Value>("/bots", &json!({"token": token, "username": username})).await.map(drop)
    }

    /// Takes a bot's token back: every call with it is answered 401 from now on.
    pub(crate) async fn revoke(&self, token: &str) -> Result<()> {
        self.post::<Value>("/faults", &json!({"token": token, "method": "*", "kind": "401", "count": null}))
            .await
            .map(drop)
    }

    /// Starts sending messages to a bot.
    pub(crate) async fn start_load(&self, token: &str, load: &Load) -> Result<()> {
        let mut body = serde_json::to_value(load)?;
        body["token"] = json!(token);
        self.post::<Value>("/load", &body).await.map(drop)
    }

    /// Puts `count` messages into a bot's queue at once.
    pub(crate) async fn push(&self, token: &str, count: u32) -> Result<()> {
        self.post::<Value>("/push", &json!({"token": token, "count": count, "chat": 1})).await.map(drop)
    }

    /// Marks the begin of something gentle, and says when that was on the emulator's clock.
    pub(crate) async fn mark_planned(&self, token: &str, text: &str) -> Result<Duration> {
        self.mark(Mark::new(MarkKind::Planned, text).of(token)).await
    }

    /// Marks the begin of a kill, a pause or a cut: what is lost until `after` is counted apart.
    pub(crate) async fn mark_crash(&self, token: &str, text: &str, after: Duration) -> Result<Duration> {
        self.mark(Mark::new(MarkKind::Crash, text).of(token).window(CRASH_BEFORE, after)).await
    }

    /// [`Self::mark_planned`] for all bots.
    pub(crate) async fn mark_all_planned(&self, text: &str) -> Result<Duration> {
        self.mark(Mark::new(MarkKind::Planned, text)).await
    }

    async fn mark(&self, mark: Mark) -> Result<Duration> {
        let answer: Value = self.post("/marks", &serde_json::to_value(mark)?).await?;
        let at = answer["at_ms"].as_f64().context("the emulator does not say when the mark was put")?;
        Ok(Duration::try_from_secs_f64(at / 1000.0)?)
    }

    /// Names the pod behind an address.
    pub(crate) async fn name_lane(&self, ip: &str, pod: &str) -> Result<()> {
        self.post::<Value>("/lanes", &json!({"ip": ip, "pod": pod})).await.map(drop)
    }

    /// What became of the messages of one bot.
    pub(crate) async fn verdict(&self, token: &str) -> Result<BotVerdict> {
        self.get(&format!("/verdict?token={token}")).await
    }

    /// The life of every message to a bot.
    pub(crate) async fn ledger(&self, token: &str) -> Result<Ledger> {
        self.get(&format!("/ledger?token={token}")).await
    }

    /// Every getUpdates request to a bot.
    pub(crate) async fn polls(&self, token: &str) -> Result<Vec<PollRecord>> {
        self.get(&format!("/polls?token={token}")).await
    }

    /// Ends a bot's load.
    pub(crate) async fn stop_load(&self, token: &str) -> Result<()> {
        let request = http::Request::delete(format!("{}/load?token={token}", self.base)).body(Vec::new())?;
        self.send::<Value>("/load", request).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = http::Request::get(format!("{}{path}", self.base)).body(Vec::new())?;
        self.send(path, request).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        let request = http::Request::post(format!("{}{path}", self.base))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(body)?)?;
        self.send(path, request).await
    }

    async fn send<T: DeserializeOwned>(&self, path: &str, request: http::Request<Vec<u8>>) -> Result<T> {
        let path = path.split('?').next().unwrap_or_default();
        tokio::time::timeout(Duration::from_secs(20), self.client.request(request))
            .await
            .with_context(|| format!("the emulator's {path} did not answer within 20 s"))?
            .with_context(|| format!("the emulator's {path}"))
    }
}
