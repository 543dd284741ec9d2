//! What the bot asks for: the path, and the arguments of the few methods that the gate understands (R1).
//!
//! Read as the published server reads it, or a call would mean one thing here and another one there:
//! * The path is percent-decoded first, methods are case-insensitive.
//! * Arguments come from the query string, then from the body: JSON object, form or multipart, packed or not. The first
//!   occurrence of a name wins. In JSON a string is taken as it is, any other value as its text, so 1000 and "1000" are the
//!   same; a body that is nothing but a string is the argument `content`.
//! * A mistake in a body is none of the call: what was read before it counts.
//! * An integer is its leading digits, modulo 2^32; no digits are 0, and no text is the default.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use crate::core::PollArgs;

/// The server's own limit for all arguments of a call; also the gate's for a body that it reads, packed and unpacked.
pub(crate) const LARGEST: usize = 1 << 20;

/// The path of a Bot API request.
pub(crate) struct BotPath<'a> {
    /// `/file/bot…`: a download.
    pub(crate) file: bool,
    /// What stands where the token belongs.
    pub(crate) token: String,
    /// The test data centre: `/bot<token>/test/…`.
    pub(crate) test: bool,
    /// What follows the token, with its leading slash, as the bot wrote it.
    pub(crate) rest: &'a str,
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

/// Why a call is refused before its arguments are known, as the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// More than [`LARGEST`].
    TooLong,
    /// A `Content-Encoding` that is neither gzip nor deflate.
    Coding,
}

// === impl BotPath ===

impl<'a> BotPath<'a> {
    /// `None` if the path is not one of the Bot API.
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
        let (file, token_at) = if decoded.starts_with(b"/bot") {
            (false, "/bot".len())
        } else if decoded.starts_with(b"/file/bot") {
            (true, "/file/bot".len())
        } else {
            return None;
        };
        let token = decoded[token_at..].split(|byte| *byte == b'/').next().unwrap_or_default();
        let rest = &decoded[token_at + token.len()..];
        let after_test = rest.strip_prefix(b"/test/");
        let method = String::from_utf8_lossy(after_test.unwrap_or(rest));
        // More than one slash is none of the server's spellings, but of those that a proxy before it may merge.
        let method = method.trim_start_matches('/').to_ascii_lowercase();
        Some(Self {
            file,
            token: String::from_utf8_lossy(token).into_owned(),
            test: after_test.is_some(),
            rest: path.get(encoded_length(path, token_at + token.len())..).unwrap_or_default(),
            method: if file { String::new() } else { method },
        })
    }
}

/// How many bytes of a path were decoded into its first `decoded` ones.
fn encoded_length(path: &str, decoded: usize) -> usize {
    let path = path.as_bytes();
    let is_hex = |hex: &[u8]| hex.iter().all(u8::is_ascii_hexdigit);
    let is_escape = |at: usize| path[at] == b'%' && path.get(at + 1..at + 3).is_some_and(is_hex);
    (0..decoded).fold(0, |at, _| at + if is_escape(at) { 3 } else { 1 })
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

// === impl Refused ===

impl Refused {
    /// The status, and the server's words for it.
    pub(crate) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large: too much parameters"),
            Self::Coding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type: unsupported content-encoding")
            }
        }
    }
}

// === impl Args ===

impl Args {
    /// Reads the query string.
    pub(crate) fn of_query(query: Option<&str>) -> Self {
        let mut args = Self::default();
        args.form(query.unwrap_or_default().as_bytes());
        args
    }

    /// Reads the body; a name that is known already keeps its value.
    pub(crate) async fn read(&mut self, headers: &HeaderMap, body: Bytes) -> Result<(), Refused> {
        let kind = text(headers, CONTENT_TYPE);
        let lower = kind.to_ascii_lowercase();
        let body = unpacked(headers, body)?;
        if lower.contains("multipart/form-data") {
            self.multipart(kind, body).await;
        } else if lower.contains("application/x-www-form-urlencoded") {
            self.form(&body);
        } else if lower.contains("application/json") {
            self.json(&body);
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `None`: its default.
    fn integer(&self, name: &str) -> Option<i32> {
        self.get(name).filter(|text| !text.is_empty()).map(integer)
    }

    /// As the server reads a boolean.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "1"))
    }

    /// The arguments of a `getUpdates`.
    pub(crate) fn poll(&self) -> PollArgs {
        let list = self.get("allowed_updates").filter(|text| serde_json::from_str::<Vec<String>>(text).is_ok());
        PollArgs {
            offset: self.integer("offset").map(i64::from),
            limit: self.integer("limit").map(|limit| limit.clamp(1, 100).into()),
            timeout: self.integer("timeout").map(|timeout| timeout.clamp(0, 50).into()),
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
        // The mistake is not told to the bot, as the server does not.
        let _ = serde_json::Deserializer::from_slice(body).deserialize_any(Members(self));
    }

    async fn multipart(&mut self, kind: &str, body: Bytes) {
        let Ok(boundary) = multer::parse_boundary(kind) else {
            return;
        };
        let stream = futures::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
        let mut parts = multer::Multipart::new(stream, boundary);
        while let Ok(Some(field)) = parts.next_field().await {
            let name = field.name().map(ToOwned::to_owned).filter(|_| field.file_name().is_none());
            let Ok(value) = field.bytes().await else {
                return;
            };
            if let Some(name) = name {
                self.add(name, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// As the server's zlib does it: what the bytes are is seen from the bytes, and not which of the two words was said.
fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    match text(headers, CONTENT_ENCODING).trim().to_ascii_lowercase().as_str() {
        "" | "identity" => return Ok(body),
        "gzip" | "deflate" => {}
        _ => return Err(Refused::Coding),
    }
    let unpacking: &mut dyn Read =
        if body.starts_with(&[0x1f, 0x8b]) { &mut GzDecoder::new(&body[..]) } else { &mut ZlibDecoder::new(&body[..]) };
    let mut plain = Vec::new();
    // What was unpacked before a mistake counts.
    let _ = unpacking.take(LARGEST as u64 + 1).read_to_end(&mut plain);
    if plain.len() > LARGEST { Err(Refused::TooLong) } else { Ok(plain.into()) }
}

/// 32 bits that wrap around, as in the server: an offset that only seems to be a large one is negative there, and empties
/// the queue.
fn integer(text: &str) -> i32 {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let digits = digits.bytes().take_while(u8::is_ascii_digit);
    let value = digits.fold(0_u32, |value, digit| value.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
    let value = value.cast_signed();
    if negative { value.wrapping_neg() } else { value }
}

/// Takes the members of an object one by one, so that those before a mistake are there.
struct Members<'a>(&'a mut Args);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.add("content".to_owned(), text.to_owned());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            match members.next_value()? {
                Value::String(text) => self.0.add(name, text),
                other => self.0.add(name, other.to_string()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "args_test.rs"]
mod tests;
