//! The methods besides polling: what the libraries call at their start, and sending messages.

use serde_json::{Value, json};

use crate::{
    answer::Answer,
    bot::{Bot, Call},
    model::At,
    updates::message,
};

/// Answered with `true`: calls of a bot's start and of its handlers that change nothing here.
const TRUE: [&str; 16] = [
    "setmycommands",
    "deletemycommands",
    "setmyname",
    "setmydescription",
    "setmyshortdescription",
    "setmydefaultadministratorrights",
    "setchatmenubutton",
    "sendchataction",
    "setmessagereaction",
    "answercallbackquery",
    "answerinlinequery",
    "deletemessage",
    "deletemessages",
    "pinchatmessage",
    "unpinchatmessage",
    "leavechat",
];

pub(crate) fn other(bot: &Bot, method: &str) -> Answer {
    match method {
        "getme" => Answer::ok(&me(bot)),
        "getwebhookinfo" => Answer::ok(&webhook_info(bot)),
        "getmycommands" => Answer::ok(&json!([])),
        _ if TRUE.contains(&method) => Answer::ok(&json!(true)),
        _ => Answer::error(404, "Not Found: method not found"),
    }
}

pub(crate) fn send_message(bot: &mut Bot, now: At, date: i64, call: &Call) -> Answer {
    let chat = call.args.get("chat_id");
    let text = call.args.get("text");
    if chat.is_empty() {
        return Answer::error(400, "Bad Request: chat_id is empty");
    }
    let Ok(chat) = chat.parse::<i64>() else {
        return Answer::error(400, "Bad Request: chat not found");
    };
    if text.trim().is_empty() {
        return Answer::error(400, "Bad Request: message text is empty");
    }
    bot.journal.replied(now, call.request, &call.origin, text);
    let message_id = bot.next_message_id();
    let from = json!({"id": bot.id, "is_bot": true, "first_name": bot.username, "username": bot.username});
    Answer::ok(&message(message_id, date, &from, chat, text))
}

fn me(bot: &Bot) -> Value {
    json!({
        "id": bot.id,
        "is_bot": true,
        "first_name": bot.username,
        "username": bot.username,
        "can_join_groups": true,
        "can_read_all_group_messages": false,
        "supports_inline_queries": false,
        "can_connect_to_business": false,
        "has_main_web_app": false,
        "has_topics_enabled": false,
    })
}

fn webhook_info(bot: &Bot) -> Value {
    let mut info = json!({
        "url": bot.server.webhook_url(),
        "has_custom_certificate": false,
        "pending_update_count": bot.server.pending_updates(),
    });
    if !bot.server.webhook_url().is_empty() {
        info["max_connections"] = json!(40);
    }
    if let Some(allowed) = bot.server.allowed_updates() {
        info["allowed_updates"] = json!(allowed);
    }
    info
}
