//! What a request asks for: token, method and arguments, read as the server reads them.
//!
//! * The path is percent-decoded first: `/bot<token>/<method>`, `/bot<token>/test/<method>`. Methods are case-insensitive; an empty
//!   one is taken from the argument `method`.
//! * Arguments come from the query string, then from the body: `application/json`, `application/x-www-form-urlencoded`,
//!   `multipart/form-data`, matched by *contains*. The first occurrence of a name wins, so the query string beats the body.
//! * JSON: strings at the top level are taken as they are, any other value is kept as its JSON text (1000 and "1000" are equal).
//! * A malformed body is no error: what was read until then counts.
//! * Integers: leading digits count, anything else is 0; a missing or empty one has its default. Booleans: `true`, `yes`, `1`.

use percent_encoding::percent_decode_str;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use crate::body::{self, Body, Refused, Upload};

/// Token and method of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) token: String,
    pub(crate) method: String,
}

/// Reads a path; none: it is not one of the Bot API's.
pub(crate) fn target(path: &str) -> Option<Target> {
    let path = percent_decode_str(path).decode_utf8_lossy();
    let (token, rest) = path.strip_prefix("/bot")?.split_once('/')?;
    let method = rest.strip_prefix("test/").unwrap_or(rest);
    Some(Target { token: token.to_owned(), method: method.to_owned() })
}

/// The path of a file to be downloaded: `/file/bot<token>/<path>`, `/file/bot<token>/test/<path>`.
pub(crate) fn file_target(path: &str) -> Option<(String, String)> {
    let Target { token, method } = target(path.strip_prefix("/file")?)?;
    Some((token, method))
}

/// Arguments in the order in which they were read, and the files that came with them.
#[derive(Debug, Default)]
pub(crate) struct Args(Vec<(String, String)>, Vec<Upload>);

// === impl Args ===

impl Args {
    /// Reads the query string, then the body (none: there is none).
    pub(crate) async fn read(query: Option<&str>, content_type: &str, body: Option<Body>) -> Result<Self, Refused> {
        let mut args = Self::default();
        args.form(query.unwrap_or_default().as_bytes());
        let kind = content_type.to_ascii_lowercase();
        let Some(body) = body else {
            return Ok(args);
        };
        if kind.contains("multipart/form-data") {
            args.1 = body::multipart(content_type, body, &mut args.0).await?;
        } else if kind.contains("application/x-www-form-urlencoded") {
            args.form(&body::collected(body).await?);
        } else if kind.contains("application/json") {
            args.json(&body::collected(body).await?);
        } else {
            body::drained(body).await?;
        }
        if args.0.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > body::MAX_ARGUMENTS {
            return Err(Refused::Bare(413));
        }
        Ok(args)
    }

    /// Arguments that nobody sent over HTTP.
    pub(crate) fn of(arguments: Vec<(String, String)>) -> Self {
        Self(arguments, Vec::new())
    }

    /// Takes the file of an argument: in the form's field of its name, or where `attach://<field>` points to.
    pub(crate) fn take_file(&mut self, name: &str) -> Option<Upload> {
        let field = self.get(name).strip_prefix("attach://").unwrap_or(name).to_owned();
        let index = self.1.iter().position(|upload| upload.field == field)?;
        Some(self.1.remove(index))
    }

    /// The first argument of this name; empty when there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// An integer; none: missing or empty.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        let text = self.get(name);
        (!text.is_empty()).then(|| leading_integer(text))
    }

    /// An integer of 32 bits; 0 when it is missing.
    pub(crate) fn int32(&self, name: &str) -> Option<i32> {
        let clamped = self.integer(name)?.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        i32::try_from(clamped).ok()
    }

    pub(crate) fn boolean(&self, name: &str) -> bool {
        matches!(self.get(name).to_ascii_lowercase().as_str(), "true" | "yes" | "1")
    }

    fn form(&mut self, text: &[u8]) {
        self.0.extend(form_urlencoded::parse(text).into_owned());
    }

    fn json(&mut self, body: &[u8]) {
        let mut reader = serde_json::Deserializer::from_slice(body);
        // What was read before a mistake counts, and a mistake is not one of the caller's.
        let _ = reader.deserialize_any(JsonArgs(&mut self.0));
    }
}

fn leading_integer(text: &str) -> i64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let value = digits[..end].parse::<i64>().unwrap_or(0);
    if negative { -value } else { value }
}

/// Reads an object's members one by one, so that those before a mistake are kept.
struct JsonArgs<'a>(&'a mut Vec<(String, String)>);

impl<'de> Visitor<'de> for JsonArgs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.push(("content".to_owned(), text.to_owned()));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            let value = match members.next_value()? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.0.push((name, value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    async fn read(query: &str, content_type: &str, body: &str) -> Args {
        let body = bytes::Bytes::from(body.to_owned());
        let body = futures::stream::once(async move { Ok(body) }).boxed();
        Args::read(Some(query), content_type, Some(body)).await.expect("within the limits")
    }

    fn parts(path: &str) -> Option<(String, String)> {
        target(path).map(|t| (t.token, t.method))
    }

    #[test]
    fn a_path_is_percent_decoded() {
        assert_eq!(parts("/bot12%3Aab/get%4De"), Some(("12:ab".into(), "getMe".into())));
    }

    #[test]
    fn a_test_path_and_an_empty_method_are_understood() {
        assert_eq!(parts("/bot12:ab/test/getMe"), Some(("12:ab".into(), "getMe".into())));
        assert_eq!(parts("/bot12:ab/"), Some(("12:ab".into(), String::new())));
    }

    #[test]
    fn a_path_without_bot_or_without_a_method_is_not_found() {
        assert_eq!(parts("/12:ab/getMe"), None);
        assert_eq!(parts("/bot12:ab"), None);
        assert_eq!(parts("/"), None);
    }

    #[tokio::test]
    async fn the_query_string_beats_the_body() {
        let args = read("offset=1", "application/x-www-form-urlencoded", "offset=2&timeout=3").await;
        assert_eq!((args.get("offset"), args.get("timeout")), ("1", "3"));
    }

    #[tokio::test]
    async fn the_first_occurrence_of_a_name_wins() {
        assert_eq!(read("a=1&a=2", "", "").await.get("a"), "1");
        assert_eq!(read("", "application/json", r#"{"a":1,"a":2}"#).await.get("a"), "1");
    }

    #[tokio::test]
    async fn json_values_are_kept_as_text_and_strings_as_they_are() {
        let body = r#"{"n":1000,"s":"1000","list":["message"],"t":"a\"b","null":null}"#;
        let args = read("", "text/x; application/json; charset=utf-8", body).await;
        assert_eq!(args.get("n"), args.get("s"));
        assert_eq!(args.get("list"), r#"["message"]"#);
        assert_eq!(args.get("t"), "a\"b");
        assert_eq!(args.get("null"), "null");
    }

    #[tokio::test]
    async fn a_bare_json_string_is_the_argument_content_and_null_is_nothing() {
        assert_eq!(read("", "application/json", r#""hello""#).await.get("content"), "hello");
        assert_eq!(read("", "application/json", "null").await.0, []);
    }

    #[tokio::test]
    async fn a_malformed_body_is_read_as_far_as_it_goes() {
        let args = read("", "application/json", r#"{"offset":7,"limit":}"#).await;
        assert_eq!((args.get("offset"), args.get("limit")), ("7", ""));
    }

    #[tokio::test]
    async fn multipart_fields_are_arguments_and_files_are_not() {
        let body = "--XX\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\n#7 hi\r\n--XX\r\n\
                    Content-Disposition: form-data; name=\"photo\"; filename=\"a.png\"\r\n\r\nxx\r\n--XX--\r\n";
        let args = read("", "multipart/form-data; boundary=XX", body).await;
        assert_eq!((args.get("text"), args.get("photo")), ("#7 hi", ""));
    }

    #[tokio::test]
    async fn numbers_are_read_like_the_server_does() {
        let args = read("a=12x&b=-5&c=x&d=&e=99999999999&f=yes&g=True&h=on", "", "").await;
        let ints = ["a", "b", "c", "d", "e"].map(|n| args.int32(n));
        assert_eq!(ints, [Some(12), Some(-5), Some(0), None, Some(i32::MAX)]);
        assert_eq!(["f", "g", "h"].map(|n| args.boolean(n)), [true, true, false]);
    }
}
