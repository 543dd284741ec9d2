//! The shortest bot: long polls, works for a moment, echoes. No token in it is a secret of anybody's.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

/// When a bot tells Telegram that it is done with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// After its handler has finished, one update after the other.
    Afterwards,
    /// As soon as it is in memory: what the process held is lost with it.
    First,
}

/// A bot that runs until it is dropped; then its process is gone, connections and all.
pub(crate) struct Bot {
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    root: String,
}

// === impl Bot ===

impl Bot {
    /// Starts one against the Bot API at `api`.
    pub(crate) fn start(api: &str, token: &str, acks: Acks, handler: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let api = Api { client, root: format!("{api}/bot{token}") };
        Self { task: tokio::spawn(run(api, acks, handler)) }
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(api: Api, acks: Acks, handler: Duration) {
    let mut offset = 0;
    // Dropped, and with it every handler, when the bot is.
    let mut handlers = JoinSet::new();
    loop {
        let poll = json!({ "offset": offset, "timeout": 20 });
        let Some(Value::Array(updates)) = api.call("getUpdates", poll).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        for update in updates {
            offset = update["update_id"].as_i64().unwrap() + 1;
            let work = echo(api.clone(), update, handler);
            match acks {
                Acks::Afterwards => work.await,
                Acks::First => drop(handlers.spawn(work)),
            }
        }
        while handlers.try_join_next().is_some() {}
    }
}

async fn echo(api: Api, update: Value, handler: Duration) {
    tokio::time::sleep(handler).await;
    let message = &update["message"];
    let reply = json!({ "chat_id": message["chat"]["id"], "text": message["text"] });
    api.call("sendMessage", reply).await;
}

// === impl Api ===

impl Api {
    async fn call(&self, method: &str, arguments: Value) -> Option<Value> {
        let request = Request::post(format!("{}/{method}", self.root))
            .header("content-type", "application/json")
            .body(Full::from(arguments.to_string()))
            .unwrap();
        let response = self.client.request(request).await.ok()?;
        assert_ne!(response.status(), 409, "a bot behind a gate never sees a conflict");
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let mut answer: Value = serde_json::from_slice(&body).ok()?;
        answer["ok"].as_bool()?.then(|| answer["result"].take())
    }
}
