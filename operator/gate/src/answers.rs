//! Answers that the gate makes itself: JSON with a length, as Telegram's are (R3).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Every body that leaves the gate.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there in full.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A status and nothing else.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// JSON with a status.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// No updates.
pub(crate) fn no_updates() -> Response<Body> {
    json(StatusCode::OK, r#"{"ok":true,"result":[]}"#)
}

/// `true`, with a description.
pub(crate) fn done(description: &str) -> Response<Body> {
    json(StatusCode::OK, serde_json::json!({"ok": true, "result": true, "description": description}).to_string())
}

/// An error in Telegram's form.
pub(crate) fn error(status: StatusCode, description: &str) -> Response<Body> {
    let body = serde_json::json!({"ok": false, "error_code": status.as_u16(), "description": description});
    json(status, body.to_string())
}

/// An upstream failure (R23).
pub(crate) fn bad_gateway() -> Response<Body> {
    error(StatusCode::BAD_GATEWAY, "Bad Gateway")
}
