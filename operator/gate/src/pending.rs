//! How many updates wait at Telegram: a question that disturbs no poll (R20), asked now and then by the leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use crate::answers;
use crate::driver::Shared;

const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 64 << 10;

#[derive(Deserialize)]
struct Info {
    result: Pending,
}

#[derive(Deserialize)]
struct Pending {
    pending_update_count: i64,
}

/// Asks every [`crate::Settings::pending_check`] while this process leads.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut status = shared.status.clone();
    loop {
        if status.wait_for(|status| status.leading.is_some()).await.is_err() {
            return;
        }
        let pause = shared.settings.borrow().pending_check;
        sleep(pause).await;
        let leads = status.borrow().leading.is_some();
        let count = if leads { ask(&shared).await } else { None };
        if count.is_some() || !leads {
            shared.metrics.pending(count);
        }
    }
}

async fn ask(shared: &Shared) -> Option<i64> {
    let test = if shared.test_dc.load(std::sync::atomic::Ordering::Relaxed) { "/test" } else { "" };
    let path = shared.origin.path(false, &shared.tokens.current(), &format!("{test}/getWebhookInfo"), None);
    let request = Request::get(shared.origin.uri(path)?).body(answers::full(Bytes::new())).ok()?;
    let asking = async {
        let response = shared.client.request(request).await.ok()?;
        let good = response.status() == StatusCode::OK;
        let body = Limited::new(response.into_body(), LARGEST).collect().await.ok()?.to_bytes();
        good.then_some(body)
    };
    let body = timeout(PATIENCE, asking).await.ok()??;
    Some(serde_json::from_slice::<Info>(&body).ok()?.result.pending_update_count)
}
