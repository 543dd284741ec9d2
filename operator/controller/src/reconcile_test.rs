//! A whole reconcile against an API server of a few lines that refuses.

use http::Method;
use http::request::Parts;
use pollux_clock::BootInstant;
use serde_json::Value;

use super::*;
use crate::election::Leadership;
use crate::fake_api::{self, failure};

const QUOTA: &str = "is forbidden: exceeded quota: pods";

/// Has one bot without children, and refuses either all writes but dry runs, or dry runs too. Keeps the status.
#[derive(Clone)]
struct FakeApi {
    refuses_dry_runs: bool,
    status: Arc<Mutex<Option<TelegramBotStatus>>>,
}

impl FakeApi {
    fn new(refuses_dry_runs: bool) -> Self {
        Self { refuses_dry_runs, status: Arc::default() }
    }

    fn answer(&self, head: &Parts, body: Value) -> (u16, Value) {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        match head.method {
            Method::GET if path.ends_with("/telegrambots/echo") => (200, bot()),
            Method::GET if query.contains("labelSelector") => (200, json!({"metadata": {}, "items": []})),
            Method::GET => failure(404, "NotFound", ""),
            Method::PATCH if path.ends_with("/status") => {
                let status = serde_json::from_value(body["status"].clone()).expect("a status");
                *self.status.lock().expect("not poisoned") = Some(status);
                (200, bot())
            }
            Method::PATCH if query.contains("dryRun") && !self.refuses_dry_runs => (200, body),
            Method::PATCH => failure(403, "Forbidden", QUOTA),
            Method::POST => (200, body),
            ref other => panic!("{other} {path}"),
        }
    }

    /// What a reconcile of the bot ends with, and what it has told.
    async fn reconcile(&self, leadership: Leadership) -> (Result<Action, Error>, Option<TelegramBotStatus>) {
        let metrics = Metrics::new();
        let api = self.clone();
        let client = fake_api::client(move |head, body| api.answer(head, body));
        let cluster = Cluster::new(client, leadership, metrics.clone());
        // A database that cannot be there: pods of a bot that never ran do not wait for it.
        let leases = Leases::spawn(&BTreeMap::from([("default".to_owned(), "/no/such/file".into())]));
        let operator = Operator { cluster: "c-1".into(), agent_image: "agent:1".into() };
        let shared = Shared::new(cluster, leases, operator, metrics, "replica".into());
        let result = run(&shared, &("bots".into(), "echo".into())).await;
        (result, self.status.lock().expect("not poisoned").clone())
    }
}

fn bot() -> Value {
    json!({
        "apiVersion": "pollux.dev/v1alpha1", "kind": "TelegramBot",
        "metadata": {"name": "echo", "namespace": "bots", "uid": "u1", "generation": 1},
        "spec": {"image": "i", "tokenSecretRef": {"name": "echo-token"}},
    })
}

fn leading() -> Leadership {
    Leadership::until(BootInstant::now() + Duration::from_secs(60))
}

#[tokio::test]
async fn refused_write_is_told_and_tried_again() {
    let (result, told) = FakeApi::new(false).reconcile(leading()).await;
    assert!(matches!(&result, Err(error) if error.is_forbidden()), "{result:?}");
    let told = told.expect("a status");
    let progressing = told.condition(ConditionType::Progressing).expect("the condition");
    assert_eq!((progressing.status.as_str(), progressing.reason.as_str()), ("False", "Forbidden"));
    assert_eq!(told.phase, Phase::Degraded);
    assert!(told.message.contains(QUOTA), "{}", told.message);
}

#[tokio::test]
async fn refused_dry_run_is_told() {
    let (result, told) = FakeApi::new(true).reconcile(leading()).await;
    assert!(result.is_ok(), "{result:?}");
    let told = told.expect("a status");
    let valid = told.condition(ConditionType::SpecValid).expect("the condition");
    assert_eq!((valid.status.as_str(), valid.reason.as_str()), ("False", "PodTemplateInvalid"));
    assert!(told.message.contains(QUOTA), "{}", told.message);
}

#[tokio::test]
async fn replica_that_leads_no_more_tells_nothing() {
    let (result, told) = FakeApi::new(false).reconcile(Leadership::until(BootInstant::ZERO)).await;
    assert!(matches!(result, Err(Error::NotLeading { .. })), "{result:?}");
    assert_eq!(told, None);
}
