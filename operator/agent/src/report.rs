//! What only the agent knows and the controller shows, as it travels in the candidate's row.
//!
//! Every field may be absent: an old agent leaves out what it does not know, and a new one is read by an old controller.

use pollux_gate::{Status, TokenState};
use serde::{Deserialize, Serialize};

use crate::VERSION;

/// The report. It is written when it changes, so it holds nothing that changes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The bot's user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bot_id: Option<i64>,
    /// The bot's user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Telegram's opinion of the token; absent until it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_accepted: Option<bool>,
    /// What is wrong with the token, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_error: Option<String>,
    /// A webhook is set, so that nobody can poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_active: Option<bool>,
    /// Somebody else polls with this token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_poller: Option<bool>,
    /// The bot asks for nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaf: Option<bool>,
    /// The agent's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
}

// === impl Report ===

impl Report {
    /// What is known now.
    pub fn new(bot_id: i64, status: &Status) -> Self {
        const REJECTED: &str = "Telegram rejects the token: put the right one into the Secret (@BotFather, /token)";
        Self {
            bot_id: Some(bot_id),
            username: status.bot.as_ref().map(|bot| bot.username.clone()),
            token_accepted: match status.token {
                TokenState::Unknown => None,
                TokenState::Accepted => Some(true),
                TokenState::Rejected => Some(false),
            },
            token_error: (status.token == TokenState::Rejected).then(|| REJECTED.to_owned()),
            webhook_active: Some(status.webhook_active),
            foreign_poller: Some(status.foreign_poller),
            deaf: Some(status.deaf),
            agent_version: Some(VERSION.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pollux_gate::BotIdentity;

    use super::*;

    #[test]
    fn the_controller_reads_these_names() {
        let bot = BotIdentity { id: 42, username: "echo_bot".into() };
        let status = Status { token: TokenState::Rejected, bot: Some(bot), ..Status::default() };
        let json = serde_json::to_value(Report::new(42, &status)).unwrap();
        assert_eq!(json["botId"], 42);
        assert_eq!(json["username"], "echo_bot");
        assert_eq!(json["tokenAccepted"], false);
        assert!(json["tokenError"].as_str().unwrap().contains("@BotFather"));
        assert_eq!(json["foreignPoller"], false);
        assert_eq!(json["webhookActive"], false);
        assert_eq!(json["deaf"], false);
        assert_eq!(json["agentVersion"], VERSION);
    }

    #[test]
    fn a_token_that_was_not_tried_is_neither_accepted_nor_rejected() {
        let json = serde_json::to_value(Report::new(42, &Status::default())).unwrap();
        assert!(json.get("tokenAccepted").is_none());
    }
}
