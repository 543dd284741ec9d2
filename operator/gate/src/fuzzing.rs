//! What the fuzz targets see of the inside. In no other build.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

use crate::args::{Args, BotPath};
use crate::core::PollArgs;

/// A path as the gate understands it.
#[derive(Debug)]
pub struct Path {
    /// `/file/bot…`.
    pub file: bool,
    /// What stands where the token belongs.
    pub token: String,
    /// What follows it, as it was written.
    pub rest: String,
    /// The method in lower case.
    pub method: String,
}

/// Arguments as the gate reads them.
#[derive(Debug)]
pub struct Arguments(Args);

/// Reads a path.
pub fn path(path: &str) -> Option<Path> {
    let BotPath { file, token, rest, method, test: _ } = BotPath::parse(path)?;
    Some(Path { file, token, rest: rest.to_owned(), method })
}

/// Reads arguments; `None` if the call would be refused.
pub async fn arguments(
    query: Option<&str>,
    kind: &'static str,
    coding: &'static str,
    body: Bytes,
) -> Option<Arguments> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    let mut args = Args::of_query(query);
    args.read(&headers, body).await.ok()?;
    Some(Arguments(args))
}

// === impl Arguments ===

impl Arguments {
    /// The argument of this name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_default()
    }

    /// What a poll with them asks for.
    pub fn poll(&self) -> PollArgs {
        self.0.poll()
    }
}
