//! What an answer to `getUpdates` means: as much of it as the rules need.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::Outcome;
use crate::link::{Answer, LinkError};

/// An update: its id, and the name of what it holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) id: i64,
    pub(crate) kind: &'static str,
    /// When it was sent, in seconds since 1970; only messages and posts say that.
    pub(crate) date: Option<u64>,
}

#[derive(Deserialize)]
struct Dated {
    date: Option<u64>,
}

/// The updates as they stand in the answer.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    result: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Envelope {
    ok: bool,
    #[serde(default)]
    result: Vec<Update>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    #[serde(default)]
    retry_after: u64,
}

/// The types of updates that are counted by name.
const KINDS: [&str; 12] = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "callback_query",
    "inline_query",
    "chosen_inline_result",
    "pre_checkout_query",
    "my_chat_member",
    "chat_member",
    "message_reaction",
    "poll_answer",
];

/// Reads an answer: what it means for the rules, and the updates in it.
pub(crate) fn read(answer: &Result<Answer, LinkError>) -> (Outcome, Vec<Update>) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(LinkError::Stale) => return (Outcome::Stale, Vec::new()),
        Err(_) => return (Outcome::Failed, Vec::new()),
    };
    if answer.status == 200 {
        return match serde_json::from_slice::<Envelope>(&answer.body) {
            Ok(Envelope { ok: true, result }) => {
                let ids = result.iter().map(|update| update.id).collect();
                (Outcome::Updates(ids), result)
            }
            _ => (Outcome::Failed, Vec::new()),
        };
    }
    let refusal = serde_json::from_slice(&answer.body)
        .unwrap_or(Refusal { description: String::new(), parameters: Parameters::default() });
    (refused(answer.status, &refusal), Vec::new())
}

/// The answer with only `take` of its updates, those after the first `skip`, byte for byte; `None` if it has not so many.
pub(crate) fn part(body: &Bytes, skip: usize, take: usize) -> Option<Bytes> {
    let updates = serde_json::from_slice::<Listed<'_>>(body).ok()?.result;
    let kept = updates.get(skip..skip.checked_add(take)?)?;
    let at = |update: &RawValue| update.get().as_ptr().addr() - body.as_ptr().addr();
    let list = match (kept.first(), kept.last()) {
        (Some(first), Some(last)) => body.get(at(first)..at(last) + last.get().len())?,
        _ => &[],
    };
    Some([br#"{"ok":true,"result":["#, list, b"]}"].concat().into())
}

fn refused(status: u16, refusal: &Refusal) -> Outcome {
    match status {
        401 | 404 => Outcome::Unauthorized,
        // The server has no other sign that tells the two apart.
        409 if refusal.description.contains("webhook is active") => Outcome::WebhookActive,
        409 if refusal.description.contains("terminated by other") => Outcome::Conflict,
        429 => Outcome::FloodWait(Duration::from_secs(refusal.parameters.retry_after.max(1))),
        _ => Outcome::Failed,
    }
}

impl<'de> Deserialize<'de> for Update {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UpdateVisitor)
    }
}

struct UpdateVisitor;

impl<'de> Visitor<'de> for UpdateVisitor {
    type Value = Update;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an update")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Update, A::Error> {
        let mut id = None;
        let (mut kind, mut date) = ("other", None);
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == "update_id" {
                id = Some(map.next_value()?);
                continue;
            }
            if let Some(known) = KINDS.iter().find(|known| **known == name) {
                kind = known;
            }
            if matches!(kind, "message" | "channel_post") && date.is_none() && name == kind {
                date = map.next_value::<Dated>()?.date;
                continue;
            }
            map.next_value::<IgnoredAny>()?;
        }
        let id = id.ok_or_else(|| serde::de::Error::missing_field("update_id"))?;
        Ok(Update { id, kind, date })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> Outcome {
        read(&Ok(Answer { status, body: body.to_owned().into() })).0
    }

    #[test]
    fn ids_and_kinds_are_read_and_nothing_else() {
        let body = r#"{"ok":true,"result":[{"update_id":7,"message":{"text":"\"}","date":1}},{"brand_new":[1],"update_id":8}]}"#;
        let (outcome, updates) = read(&Ok(Answer { status: 200, body: body.into() }));
        assert_eq!(outcome, Outcome::Updates(vec![7, 8]));
        let message = Update { id: 7, kind: "message", date: Some(1) };
        assert_eq!(updates, [message, Update { id: 8, kind: "other", date: None }]);
    }

    #[test]
    fn a_part_of_an_answer_has_the_bytes_that_telegram_sent() {
        let first = r#"{"update_id":7,"message":{"text":"\"}, {","date":1}}"#;
        let second = "{ \"update_id\" :8,\n\"x\":1e2}";
        let third = r#"{"update_id":9,"message":{"text":"\u00e9 é"}}"#;
        let body = Bytes::from(format!(r#" {{"result": [ {first} ,{second}, {third} ], "ok" : true}}"#));
        let of = |skip, take| part(&body, skip, take).map(|part| String::from_utf8(part.to_vec()).unwrap());
        assert_eq!(of(1, 2), Some(format!(r#"{{"ok":true,"result":[{second}, {third}]}}"#)));
        assert_eq!(of(0, 1), Some(format!(r#"{{"ok":true,"result":[{first}]}}"#)));
        assert_eq!(of(3, 0), Some(r#"{"ok":true,"result":[]}"#.to_owned()));
        assert_eq!(of(2, 2), None);
    }

    #[test]
    fn refusals_are_told_apart() {
        let other = r#"{"ok":false,"error_code":409,"description":"Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"}"#;
        let hook = r#"{"ok":false,"error_code":409,"description":"Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"}"#;
        let set = r#"{"ok":false,"error_code":409,"description":"Conflict: terminated by setWebhook request"}"#;
        assert_eq!(outcome(409, other), Outcome::Conflict);
        assert_eq!(outcome(409, hook), Outcome::WebhookActive);
        assert_eq!(outcome(409, set), Outcome::Failed, "the next poll will tell what is the matter");
        let flood = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#;
        assert_eq!(outcome(429, flood), Outcome::FloodWait(Duration::from_secs(7)));
        assert_eq!(outcome(401, ""), Outcome::Unauthorized);
        assert_eq!(outcome(404, "<html>"), Outcome::Unauthorized);
        assert_eq!(outcome(502, "<html>"), Outcome::Failed);
    }

    #[test]
    fn an_answer_that_is_no_list_of_updates_is_not_delivered() {
        for body in
            ["", "<html>", r#"{"ok":false}"#, r#"{"ok":true,"result":[{"message":{}}]}"#, r#"{"ok":true,"result":"#]
        {
            assert_eq!(outcome(200, body), Outcome::Failed, "{body}");
        }
    }
}
