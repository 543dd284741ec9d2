//! What the bot asks for: the path, and the arguments of the few methods that the gate understands (R1).
//!
//! Parsed as the Bot API server does it: the path is percent-decoded, methods are case-insensitive, arguments come from
//! the query string and the body (JSON object, form, multipart), the first occurrence of a name wins, and a body that
//! cannot be parsed is not an error.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::core::PollArgs;

/// What may not stand in a path as it is. The rest is decoded by the server anyway.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'%').add(b'\\');

/// The path of a Bot API request.
pub(crate) struct BotPath {
    /// `/file/bot…`: a download.
    pub(crate) file: bool,
    /// What stands where the token belongs.
    pub(crate) token: String,
    /// The test data centre: `/bot<token>/test/…`.
    pub(crate) test: bool,
    /// What follows the token, percent-encoded again, with its leading slash.
    pub(crate) rest: String,
    /// The method in lower case; empty if the path has none.
    pub(crate) method: String,
}

/// The methods that are the gate's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    GetUpdates,
    SetWebhook,
    DeleteWebhook,
    Close,
    LogOut,
    GetMe,
    /// Everything else.
    Other,
}

/// Arguments by name.
#[derive(Debug, Default)]
pub(crate) struct Args(HashMap<String, String>);

// === impl BotPath ===

impl BotPath {
    /// `None` if the path is not one of the Bot API.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let (file, after) = match decoded.strip_prefix("/bot") {
            Some(after) => (false, after),
            None => (true, decoded.strip_prefix("/file/bot")?),
        };
        let (token, rest) = match after.find('/') {
            Some(slash) => after.split_at(slash),
            None => (after, ""),
        };
        let after_test = rest.strip_prefix("/test/");
        let method = after_test.unwrap_or_else(|| rest.trim_start_matches('/'));
        Some(Self {
            file,
            token: token.to_owned(),
            test: after_test.is_some(),
            rest: utf8_percent_encode(rest, PATH).to_string(),
            method: if file { String::new() } else { method.to_ascii_lowercase() },
        })
    }
}

// === impl Method ===

impl Method {
    pub(crate) fn of(lower_case: &str) -> Self {
        match lower_case {
            "getupdates" => Self::GetUpdates,
            "setwebhook" => Self::SetWebhook,
            "deletewebhook" => Self::DeleteWebhook,
            "close" => Self::Close,
            "logout" => Self::LogOut,
            "getme" => Self::GetMe,
            _ => Self::Other,
        }
    }
}

// === impl Args ===

impl Args {
    /// Reads the query string, then the body.
    pub(crate) async fn parse(query: Option<&str>, headers: &HeaderMap, body: Bytes) -> Self {
        let mut args = Self::default();
        args.form(query.unwrap_or_default().as_bytes());
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let lower = kind.to_ascii_lowercase();
        if lower.contains("application/json") {
            args.json(&body);
        } else if lower.contains("application/x-www-form-urlencoded") {
            args.form(&body);
        } else if lower.contains("multipart/form-data") {
            args.multipart(kind, body).await;
        }
        args
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }

    /// As the server reads a boolean.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "1"))
    }

    /// The arguments of a `getUpdates`.
    pub(crate) fn poll(&self) -> PollArgs {
        let list = self.get("allowed_updates").filter(|text| serde_json::from_str::<Vec<String>>(text).is_ok());
        PollArgs {
            offset: self.integer("offset"),
            limit: self.integer("limit"),
            timeout: self.integer("timeout"),
            allowed_updates: list.map(Arc::from),
        }
    }

    fn add(&mut self, name: String, value: String) {
        self.0.entry(name).or_insert(value);
    }

    fn form(&mut self, text: &[u8]) {
        for (name, value) in form_urlencoded::parse(text) {
            self.add(name.into_owned(), value.into_owned());
        }
    }

    fn json(&mut self, body: &[u8]) {
        let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(body) else {
            return;
        };
        for (name, value) in object {
            let text = match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            self.add(name, text);
        }
    }

    async fn multipart(&mut self, kind: &str, body: Bytes) {
        let Ok(boundary) = multer::parse_boundary(kind) else {
            return;
        };
        let stream = futures::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
        let mut parts = multer::Multipart::new(stream, boundary);
        while let Ok(Some(field)) = parts.next_field().await {
            let Some(name) = field.name().map(ToOwned::to_owned) else {
                continue;
            };
            let file = field.file_name().is_some();
            if let Ok(text) = field.text().await
                && !file
            {
                self.add(name, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers
    }

    async fn poll(query: Option<&str>, kind: &str, body: &str) -> PollArgs {
        Args::parse(query, &headers(kind), Bytes::copy_from_slice(body.as_bytes())).await.poll()
    }

    fn expected(allowed: Option<&str>) -> PollArgs {
        PollArgs { offset: Some(7), limit: Some(5), timeout: Some(30), allowed_updates: allowed.map(Arc::from) }
    }

    #[test]
    fn r01_methods_are_recognised_in_every_spelling() {
        for (path, method, test) in [
            ("/bot1:a/getUpdates", "getupdates", false),
            ("/bot1%3Aa/GetUpdates", "getupdates", false),
            ("/bot1:a/get%55pdates", "getupdates", false),
            ("/bot1:a%2FgetUpdates", "getupdates", false),
            ("/bot1:a/test/GETUPDATES", "getupdates", true),
            ("/bot1:a/", "", false),
            ("/bot1:a", "", false),
        ] {
            let parsed = BotPath::parse(path).unwrap();
            assert_eq!((parsed.token.as_str(), parsed.method.as_str(), parsed.test), ("1:a", method, test), "{path}");
        }
        assert!(BotPath::parse("/getUpdates").is_none());
        assert!(BotPath::parse("/leader").is_none());
    }

    #[test]
    fn r01_a_file_path_is_no_method() {
        let parsed = BotPath::parse("/file/bot1:a/documents/my%20file%3F.pdf").unwrap();
        assert!(parsed.file);
        assert_eq!(parsed.rest, "/documents/my%20file%3F.pdf");
        assert_eq!(parsed.method, "");
    }

    #[tokio::test]
    async fn r01_arguments_come_from_query_form_json_and_multipart() {
        let list = Some(r#"["message"]"#);
        assert_eq!(
            poll(Some("offset=7&limit=5&timeout=30&allowed_updates=%5B%22message%22%5D"), "text/plain", "").await,
            expected(list)
        );
        let form = "application/x-www-form-urlencoded;charset=UTF-8";
        assert_eq!(poll(None, form, "offset=7&limit=5&timeout=30").await, expected(None));
        let json = "application/json; charset=utf-8";
        assert_eq!(
            poll(None, json, r#"{"offset":7,"limit":"5","timeout":30,"allowed_updates":["message"]}"#).await,
            expected(list)
        );
        let parts = "--x\r\nContent-Disposition: form-data; name=\"offset\"\r\n\r\n7\r\n\
            --x\r\nContent-Disposition: form-data; name=\"limit\"\r\n\r\n5\r\n\
            --x\r\nContent-Disposition: form-data; name=\"timeout\"\r\n\r\n30\r\n--x--\r\n";
        assert_eq!(poll(None, "multipart/form-data; boundary=x", parts).await, expected(None));
    }

    #[tokio::test]
    async fn r01_the_first_occurrence_wins_and_the_query_is_first() {
        let form = "application/x-www-form-urlencoded";
        let args = poll(Some("offset=7&limit=5&limit=6"), form, "timeout=30&offset=9&timeout=1").await;
        assert_eq!(args, expected(None));
    }

    #[tokio::test]
    async fn r01_what_cannot_be_read_counts_as_absent() {
        for (kind, body) in [
            ("application/json", "null"),
            ("application/json", "{"),
            ("application/json", ""),
            ("application/json", r#"{"offset":"x","limit":1.5,"allowed_updates":"null"}"#),
            ("application/x-www-form-urlencoded", "offset=&allowed_updates=null"),
            ("multipart/form-data; boundary=x", "--x--\r\n"),
            ("multipart/form-data", ""),
        ] {
            assert_eq!(poll(None, kind, body).await, PollArgs::default(), "{kind} {body}");
        }
    }

    #[tokio::test]
    async fn r01_the_method_argument_is_found() {
        let args = Args::parse(Some("method=GetUpdates"), &HeaderMap::new(), Bytes::new()).await;
        assert_eq!(args.get("method"), Some("GetUpdates"));
        assert!(
            Args::parse(Some("drop_pending_updates=True"), &HeaderMap::new(), Bytes::new())
                .await
                .flag("drop_pending_updates")
        );
    }
}
