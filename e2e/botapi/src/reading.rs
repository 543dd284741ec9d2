//! The emulator's reader of requests, for those who compare their own with it.

use bytes::Bytes;
use futures::StreamExt;

use crate::args::{self, Args};

/// What was read of a request.
#[derive(Debug)]
pub struct Reading(Args);

// === impl Reading ===

impl Reading {
    /// Reads the query string, then the body; none: the server would refuse the request (a malformed multipart body, or too much).
    pub async fn of(query: Option<&str>, content_type: &str, body: Bytes) -> Option<Self> {
        let body = futures::stream::once(async move { Ok(body) }).boxed();
        Args::read(query, content_type, Some(body)).await.ok().map(Self)
    }

    /// The first argument of this name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name)
    }

    /// An integer of 32 bits; none: missing or empty.
    pub fn int32(&self, name: &str) -> Option<i32> {
        self.0.int32(name)
    }

    /// Token and method of a path; none: it is not one of the Bot API's.
    pub fn target(path: &str) -> Option<(String, String)> {
        args::target(path).map(|target| (target.token, target.method))
    }
}
