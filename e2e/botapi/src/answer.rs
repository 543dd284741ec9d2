//! Answers as the server words them.

use bytes::Bytes;
use serde_json::{Value, json};

/// An HTTP answer before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    pub(crate) retry_after: Option<u64>,
    pub(crate) content: Content,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Json,
    Html,
    /// A download: parts of it can be asked for.
    File,
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

    pub(crate) fn file(content: Bytes) -> Self {
        Self { status: 200, body: content, retry_after: None, content: Content::File }
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
        Self { content: Content::Html, ..Self::json(status, body) }
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
        Self { status, body: body.into(), retry_after: None, content: Content::Json }
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
