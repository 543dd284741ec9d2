//! The methods besides polling: what a usual bot calls. They answer what the server would, and change little.

use serde_json::{Value, json};

use crate::{
    answer::Answer,
    args::Args,
    bot::{Bot, Call},
    model::At,
    updates::{chat, message, poll},
};

/// Answered with `true`: they change nothing here.
const TRUE: &[&str] = &[
    "addstickertoset",
    "answercallbackquery",
    "answerinlinequery",
    "answerprecheckoutquery",
    "answershippingquery",
    "approvechatjoinrequest",
    "approvesuggestedpost",
    "banchatmember",
    "banchatsenderchat",
    "closeforumtopic",
    "closegeneralforumtopic",
    "createnewstickerset",
    "declinechatjoinrequest",
    "declinesuggestedpost",
    "deletebusinessmessages",
    "deletechatphoto",
    "deletechatstickerset",
    "deleteforumtopic",
    "deletemessage",
    "deletemessages",
    "deletestickerfromset",
    "deletestickerset",
    "deletestory",
    "editforumtopic",
    "editgeneralforumtopic",
    "edituserstarsubscription",
    "hidegeneralforumtopic",
    "leavechat",
    "pinchatmessage",
    "promotechatmember",
    "readbusinessmessage",
    "refundstarpayment",
    "reopenforumtopic",
    "reopengeneralforumtopic",
    "replacestickerinset",
    "restrictchatmember",
    "sendchataction",
    "sendgift",
    "sendmessagedraft",
    "setchatadministratorcustomtitle",
    "setchatdescription",
    "setchatmenubutton",
    "setchatpermissions",
    "setchatphoto",
    "setchatstickerset",
    "setchattitle",
    "setcustomemojistickersetthumbnail",
    "setgamescore",
    "setmessagereaction",
    "setmydefaultadministratorrights",
    "setmydescription",
    "setmyname",
    "setmyprofilephoto",
    "setmyshortdescription",
    "setpassportdataerrors",
    "setstickeremojilist",
    "setstickerkeywords",
    "setstickermaskposition",
    "setstickerpositioninset",
    "setstickersetthumbnail",
    "setstickersettitle",
    "setuseremojistatus",
    "unbanchatmember",
    "unbanchatsenderchat",
    "unhidegeneralforumtopic",
    "unpinallchatmessages",
    "unpinallforumtopicmessages",
    "unpinallgeneralforumtopicmessages",
    "unpinchatmessage",
    "verifychat",
    "verifyuser",
    "removechatverification",
    "removeuserverification",
    "removemyprofilephoto",
];

/// Methods that send one file: method, and the argument (and the message's member) that holds it.
const MEDIA: [(&str, &str); 9] = [
    ("sendanimation", "animation"),
    ("sendaudio", "audio"),
    ("senddocument", "document"),
    ("sendlivephoto", "live_photo"),
    ("sendphoto", "photo"),
    ("sendsticker", "sticker"),
    ("sendvideo", "video"),
    ("sendvideonote", "video_note"),
    ("sendvoice", "voice"),
];

pub(crate) fn other(bot: &mut Bot, date: i64, method: &str, args: &mut Args) -> Answer {
    if let Some((_, argument)) = MEDIA.iter().find(|(name, _)| *name == method) {
        return send_media(bot, date, argument, args);
    }
    match method {
        "getme" => Answer::ok(&me(bot)),
        "getwebhookinfo" => Answer::ok(&webhook_info(bot)),
        "setmycommands" | "deletemycommands" | "getmycommands" => commands(bot, method, args),
        "getfile" => match bot.files.get_file(args.get("file_id")) {
            Ok(file) => Answer::ok(&file),
            Err(text) => Answer::error(400, text),
        },
        "uploadstickerfile" => match args.take_file("sticker") {
            Some(upload) => Answer::ok(&stored(bot, upload)),
            None => Answer::error(400, "Bad Request: there is no sticker in the request"),
        },
        "editmessagetext"
        | "editmessagecaption"
        | "editmessagemedia"
        | "editmessagereplymarkup"
        | "editmessagelivelocation"
        | "stopmessagelivelocation"
        | "editmessagechecklist" => edit(bot, date, method, args),
        "sendlocation" | "sendvenue" | "sendcontact" | "sendpoll" | "senddice" | "sendgame" | "sendinvoice"
        | "sendpaidmedia" | "sendchecklist" | "forwardmessage" => send_other(bot, date, method, args),
        "copymessage" | "copymessages" | "forwardmessages" | "sendmediagroup" => send_many(bot, date, method, args),
        _ if TRUE.contains(&method) => Answer::ok(&json!(true)),
        _ => reads(bot, method, args).unwrap_or_else(|| Answer::error(404, "Not Found: method not found")),
    }
}

/// What is asked for and never changes.
fn reads(bot: &Bot, method: &str, args: &Args) -> Option<Answer> {
    let member =
        |id: i64| json!({"user": {"id": id, "is_bot": false, "first_name": format!("User {id}")}, "status": "member"});
    Some(Answer::ok(&match method {
        "getchat" => match chat_id(args) {
            Ok(id) => {
                let mut full = chat(id);
                full["accent_color_id"] = json!(0);
                full["max_reaction_count"] = json!(11);
                full
            }
            Err(wrong) => return Some(wrong),
        },
        "getchatmember" => member(args.integer("user_id").unwrap_or_default()),
        "getchatadministrators" | "getforumtopiciconstickers" | "getcustomemojistickers" | "getgamehighscores" => {
            json!([])
        }
        "getchatmembercount" => json!(2),
        "getuserprofilephotos" => json!({"total_count": 0, "photos": []}),
        "getuserchatboosts" => json!({"boosts": []}),
        "getmyname" => json!({"name": bot.username}),
        "getmydescription" => json!({"description": ""}),
        "getmyshortdescription" => json!({"short_description": ""}),
        "getchatmenubutton" => json!({"type": "commands"}),
        "exportchatinvitelink" => json!("https://t.me/+exported"),
        "createinvoicelink" => json!("https://t.me/$invoice"),
        "getmystarbalance" => json!({"amount": 0}),
        "getstartransactions" => json!({"transactions": []}),
        _ => return None,
    }))
}

/// The chat that a call names, or what is wrong with it.
fn chat_id(args: &Args) -> Result<i64, Answer> {
    let chat = args.get("chat_id");
    if chat.is_empty() {
        return Err(Answer::error(400, "Bad Request: chat_id is empty"));
    }
    chat.parse().map_err(|_| Answer::error(400, "Bad Request: chat not found"))
}

pub(crate) fn send_message(bot: &mut Bot, now: At, date: i64, call: &Call) -> Answer {
    let text = call.args.get("text");
    let chat = match chat_id(&call.args) {
        Ok(chat) => chat,
        Err(wrong) => return wrong,
    };
    if text.trim().is_empty() {
        return Answer::error(400, "Bad Request: message text is empty");
    }
    bot.journal.replied(now, call.request, &call.origin, text);
    let mut sent = sent(bot, date, chat);
    sent["text"] = json!(text);
    Answer::ok(&sent)
}

/// A new message of the bot, without its content.
fn sent(bot: &mut Bot, date: i64, chat: i64) -> Value {
    let id = bot.next_message_id();
    let mut message = message(id, date, &from(bot), chat, "");
    if let Some(members) = message.as_object_mut() {
        members.shift_remove("text");
    }
    message
}

fn from(bot: &Bot) -> Value {
    json!({"id": bot.id, "is_bot": true, "first_name": bot.username, "username": bot.username})
}

fn stored(bot: &mut Bot, upload: crate::body::Upload) -> Value {
    let id = bot.files.add(upload);
    bot.files.described(&id)
}

/// A file that was uploaded with the call, or one that it names.
fn media(bot: &mut Bot, argument: &str, args: &mut Args) -> Option<Value> {
    if let Some(upload) = args.take_file(argument) {
        return Some(stored(bot, upload));
    }
    let named = args.get(argument);
    (!named.is_empty()).then(|| bot.files.described(named))
}

fn send_media(bot: &mut Bot, date: i64, argument: &str, args: &mut Args) -> Answer {
    let chat = match chat_id(args) {
        Ok(chat) => chat,
        Err(wrong) => return wrong,
    };
    let Some(mut file) = media(bot, argument, args) else {
        return Answer::error(400, &format!("Bad Request: there is no {} in the request", argument.replace('_', " ")));
    };
    let mut sent = sent(bot, date, chat);
    if matches!(argument, "photo" | "animation" | "sticker" | "video" | "live_photo") {
        (file["width"], file["height"]) = (json!(100), json!(100));
    }
    if matches!(argument, "animation" | "audio" | "video" | "video_note" | "voice" | "live_photo") {
        file["duration"] = json!(1);
    }
    sent[argument] = if argument == "photo" { json!([file]) } else { file };
    if !args.get("caption").is_empty() {
        sent["caption"] = json!(args.get("caption"));
    }
    Answer::ok(&sent)
}

fn send_other(bot: &mut Bot, date: i64, method: &str, args: &Args) -> Answer {
    let chat = match chat_id(args) {
        Ok(chat) => chat,
        Err(wrong) => return wrong,
    };
    let place = json!({"latitude": number(args, "latitude"), "longitude": number(args, "longitude")});
    let (member, content) = match method {
        "sendlocation" => ("location", place),
        "sendvenue" => {
            ("venue", json!({"location": place, "title": args.get("title"), "address": args.get("address")}))
        }
        "sendcontact" => {
            ("contact", json!({"phone_number": args.get("phone_number"), "first_name": args.get("first_name")}))
        }
        "sendpoll" => ("poll", poll("1", args.get("question"), &["yes", "no"])),
        "senddice" => ("dice", json!({"emoji": "🎲", "value": 4})),
        _ => ("text", json!(format!("({method})"))),
    };
    let mut sent = sent(bot, date, chat);
    sent[member] = content;
    Answer::ok(&sent)
}

fn number(args: &Args, name: &str) -> f64 {
    args.get(name).parse().unwrap_or_default()
}

fn send_many(bot: &mut Bot, date: i64, method: &str, args: &mut Args) -> Answer {
    let chat = match chat_id(args) {
        Ok(chat) => chat,
        Err(wrong) => return wrong,
    };
    if method == "copymessage" {
        return Answer::ok(&json!({"message_id": bot.next_message_id()}));
    }
    let list = args.get(if method == "sendmediagroup" { "media" } else { "message_ids" });
    let Ok(items) = serde_json::from_str::<Vec<Value>>(list) else {
        return Answer::error(400, "Bad Request: can't parse the list");
    };
    let mut results = Vec::new();
    for item in items {
        if method != "sendmediagroup" {
            results.push(json!({"message_id": bot.next_message_id()}));
            continue;
        }
        let named = item["media"].as_str().unwrap_or_default();
        let upload = named.strip_prefix("attach://").and_then(|field| args.take_file(field));
        let file = match upload {
            Some(upload) => stored(bot, upload),
            None => bot.files.described(named),
        };
        let mut sent = sent(bot, date, chat);
        let member = item["type"].as_str().unwrap_or("document");
        sent[member] = if member == "photo" { json!([file]) } else { file };
        results.push(sent);
    }
    Answer::ok(&json!(results))
}

fn edit(bot: &mut Bot, date: i64, method: &str, args: &mut Args) -> Answer {
    if !args.get("inline_message_id").is_empty() {
        return Answer::ok(&json!(true));
    }
    let chat = match chat_id(args) {
        Ok(chat) => chat,
        Err(wrong) => return wrong,
    };
    let Some(id) = args.integer("message_id").filter(|id| *id > 0) else {
        return Answer::error(400, "Bad Request: message identifier is not specified");
    };
    if method == "editmessagetext" && args.get("text").trim().is_empty() {
        return Answer::error(400, "Bad Request: message text is empty");
    }
    let mut message = message(id, date, &from(bot), chat, args.get("text"));
    message["edit_date"] = json!(date);
    Answer::ok(&message)
}

fn commands(bot: &mut Bot, method: &str, args: &Args) -> Answer {
    let key = format!("{} {}", args.get("scope"), args.get("language_code"));
    match method {
        "getmycommands" => Answer::ok(bot.commands.get(&key).unwrap_or(&json!([]))),
        "deletemycommands" => {
            bot.commands.remove(&key);
            Answer::ok(&json!(true))
        }
        _ => {
            // The list itself is not looked at: a bad one is an empty one.
            let list = serde_json::from_str(args.get("commands")).unwrap_or_else(|_| json!([]));
            bot.commands.insert(key, list);
            Answer::ok(&json!(true))
        }
    }
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
    let webhook = bot.server.webhook();
    let mut info = json!({
        "url": webhook.map_or("", |w| &w.url),
        "has_custom_certificate": webhook.is_some_and(|w| w.certificate.is_some()),
        "pending_update_count": bot.server.pending_updates(),
    });
    if let Some(webhook) = webhook {
        if let Some((at, text)) = &webhook.last_error {
            info["last_error_date"] = json!(bot.date_of(*at));
            info["last_error_message"] = json!(text);
        }
        info["max_connections"] = json!(webhook.max_connections);
        let unknown = webhook.ip_address.is_empty();
        info["ip_address"] = json!(if unknown { "<unknown>" } else { &webhook.ip_address });
    }
    if let Some(allowed) = bot.server.allowed_updates() {
        info["allowed_updates"] = json!(allowed);
    }
    info
}
