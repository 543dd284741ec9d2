//! Answers as the server words them.

use serde_json::{Value, json};

/// An HTTP answer before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) retry_after: Option<u64>,
    pub(crate) html: bool,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn ok(result: &Value) -> Self {
        Self::ok_text(&result.to_string())
    }

    /// `result` is JSON already.
    pub(crate) fn ok_text(result: &str) -> Self {
        Self::json(200, format!(r#"{{"ok":true,"result":{result}}}"#))
    }

    pub(crate) fn ok_described(description: &str) -> Self {
        Self::json(200, json!({"ok": true, "result": true, "description": description}).to_string())
    }

    pub(crate) fn error(status: u16, description: &str) -> Self {
        let body = json!({"ok": false, "error_code": status, "description": description});
        Self::json(status, body.to_string())
    }

    pub(crate) fn retry_after(seconds: u64) -> Self {
        let body = json!({
            "ok": false,
            "error_code": 429,
            "description": format!("Too Many Requests: retry after {seconds}"),
            "parameters": {"retry_after": seconds},
        });
        Self { retry_after: Some(seconds), ..Self::json(429, body.to_string()) }
    }

    /// What the proxy before the server answers when the server does not.
    pub(crate) fn html(status: u16) -> Self {
        let reason = reason(status);
        let body = format!(
            "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        Self { html: true, ..Self::json(status, body) }
    }

    /// The usual text of a status, for faults.
    pub(crate) fn usual(status: u16, retry_after: u64) -> Self {
        match status {
            409 => Self::error(409, CONFLICT_GET_UPDATES),
            429 => Self::retry_after(retry_after),
            500 => Self::error(500, "Internal Server Error: restart"),
            _ => Self::error(status, reason(status)),
        }
    }

    fn json(status: u16, body: String) -> Self {
        Self { status, body, retry_after: None, html: false }
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

pub(crate) const CONFLICT_GET_UPDATES: &str =
    "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
pub(crate) const CONFLICT_WEBHOOK: &str =
    "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first";
pub(crate) const CONFLICT_SET_WEBHOOK: &str = "Conflict: terminated by setWebhook request";
