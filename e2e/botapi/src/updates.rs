//! Updates as they are delivered. What stands for the text of each type is `#<update_id>`: text, data, query, payload, question.

use serde_json::{Value, json};

use crate::model::{Kind, Push};

/// One update, whole.
pub(crate) fn update(id: i32, message_id: i64, date: i64, push: &Push) -> Value {
    let mut text = format!("#{id}");
    if let Some(missing) = (push.bytes as usize).checked_sub(text.len()) {
        text.push_str(&" ".repeat(missing.min(1)));
        text.push_str(&"x".repeat(missing.saturating_sub(1)));
    }
    let made = Maker { id, message_id, date, chat: push.chat, text };
    json!({"update_id": id, push.kind.name(): made.content(push.kind)})
}

struct Maker {
    id: i32,
    message_id: i64,
    date: i64,
    chat: i64,
    text: String,
}

// === impl Maker ===

impl Maker {
    fn content(&self, kind: Kind) -> Value {
        let Self { text, date, .. } = self;
        let (id, from, chat) = (self.id.to_string(), user(self.chat), chat(self.chat));
        match kind {
            Kind::Message => self.message(text),
            Kind::EditedMessage => self.with(&[("edit_date", json!(date))]),
            Kind::ChannelPost => self.post(None),
            Kind::EditedChannelPost => self.post(Some(*date)),
            Kind::InlineQuery => json!({"id": id, "from": from, "query": text, "offset": ""}),
            Kind::ChosenInlineResult => json!({"result_id": id, "from": from, "query": text}),
            Kind::CallbackQuery => json!({
                "id": id, "from": from, "chat_instance": self.chat.to_string(),
                "message": self.message("a keyboard"), "data": text,
            }),
            Kind::ShippingQuery => json!({
                "id": id, "from": from, "invoice_payload": text,
                "shipping_address": {
                    "country_code": "NL", "state": "", "city": "Utrecht",
                    "street_line1": "Oudegracht 1", "street_line2": "", "post_code": "3511",
                },
            }),
            Kind::PreCheckoutQuery => json!({
                "id": id, "from": from, "currency": "EUR", "total_amount": 100, "invoice_payload": text,
            }),
            Kind::Poll => self.poll(),
            Kind::PollAnswer => json!({
                "poll_id": text, "user": from, "option_ids": [0], "option_persistent_ids": ["0"],
            }),
            Kind::MyChatMember => self.member("member", "kicked"),
            Kind::ChatMember => self.member("left", "member"),
            Kind::ChatJoinRequest => json!({
                "chat": chat, "from": from, "user_chat_id": self.chat.abs(), "date": date, "bio": text,
            }),
            Kind::ChatBoost => json!({"chat": chat, "boost": {
                "boost_id": text, "add_date": date, "expiration_date": date + 86_400, "source": premium(&from),
            }}),
            Kind::RemovedChatBoost => json!({
                "chat": chat, "boost_id": text, "remove_date": date, "source": premium(&from),
            }),
            Kind::MessageReaction => json!({
                "chat": chat, "message_id": self.message_id, "user": from, "date": date,
                "old_reaction": [], "new_reaction": [{"type": "emoji", "emoji": "👍"}],
            }),
            Kind::MessageReactionCount => json!({
                "chat": chat, "message_id": self.message_id, "date": date,
                "reactions": [{"type": {"type": "emoji", "emoji": "👍"}, "total_count": 1}],
            }),
            Kind::BusinessConnection => json!({
                "id": text, "user": from, "user_chat_id": self.chat.abs(), "date": date, "is_enabled": true,
            }),
            Kind::BusinessMessage => self.with(&[("business_connection_id", json!("b1"))]),
            Kind::EditedBusinessMessage => {
                self.with(&[("business_connection_id", json!("b1")), ("edit_date", json!(date))])
            }
            Kind::DeletedBusinessMessages => json!({
                "business_connection_id": text, "chat": chat, "message_ids": [self.message_id],
            }),
            Kind::PurchasedPaidMedia => json!({"from": from, "paid_media_payload": text}),
        }
    }

    fn message(&self, text: &str) -> Value {
        message(self.message_id, self.date, &user(self.chat), self.chat, text)
    }

    fn with(&self, more: &[(&str, Value)]) -> Value {
        let mut message = self.message(&self.text);
        for (name, value) in more {
            message[*name] = value.clone();
        }
        message
    }

    fn post(&self, edited: Option<i64>) -> Value {
        let mut post = json!({
            "message_id": self.message_id,
            "sender_chat": {"id": self.chat, "title": format!("Channel {}", self.chat), "type": "channel"},
            "chat": {"id": self.chat, "title": format!("Channel {}", self.chat), "type": "channel"},
            "date": self.date,
            "text": self.text,
        });
        if let Some(date) = edited {
            post["edit_date"] = json!(date);
        }
        post
    }

    fn poll(&self) -> Value {
        poll(&self.id.to_string(), &self.text, &["yes", "no"])
    }

    fn member(&self, old: &str, new: &str) -> Value {
        json!({
            "chat": chat(self.chat), "from": user(self.chat), "date": self.date,
            "old_chat_member": {"user": user(self.chat), "status": old},
            "new_chat_member": {"user": user(self.chat), "status": new},
            "invite_link": {
                "invite_link": format!("https://t.me/+{}", self.text), "creator": user(self.chat),
                "creates_join_request": false, "is_primary": false, "is_revoked": false,
            },
        })
    }
}

fn premium(user: &Value) -> Value {
    json!({"source": "premium", "user": user})
}

pub(crate) fn poll(id: &str, question: &str, options: &[&str]) -> Value {
    let options: Vec<Value> = options.iter().map(|text| json!({"text": text, "voter_count": 0})).collect();
    json!({
        "id": id, "question": question, "options": options, "total_voter_count": 0, "is_closed": false,
        "is_anonymous": true, "type": "regular", "allows_multiple_answers": false,
    })
}

fn user(chat: i64) -> Value {
    json!({"id": chat.abs(), "is_bot": false, "first_name": format!("User {chat}"), "language_code": "en"})
}

pub(crate) fn chat(chat: i64) -> Value {
    if chat > 0 {
        json!({"id": chat, "first_name": format!("User {chat}"), "type": "private"})
    } else {
        json!({"id": chat, "title": format!("Group {chat}"), "type": "supergroup"})
    }
}

pub(crate) fn message(id: i64, date: i64, from: &Value, to: i64, text: &str) -> Value {
    json!({"message_id": id, "from": from, "chat": chat(to), "date": date, "text": text})
}
