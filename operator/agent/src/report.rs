//! What only the agent knows and the controller shows, as it travels in the candidate's row.
//!
//! Every field may be absent: an old agent leaves out what it does not know, and a new one is read by an old controller.

use std::collections::BTreeSet;

use jiff::Timestamp;
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
    /// What is in the Secret is not used: `OtherBot`, `Refused` or `Unreadable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_problem: Option<String>,
    /// A webhook is set, so that nobody can poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_active: Option<bool>,
    /// Somebody else polls with this token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_poller: Option<ForeignPoller>,
    /// Methods that the bot called and that were not passed on, or not as they were called.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub suppressed: BTreeSet<String>,
    /// How the bot's calls went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
    /// The bot asks for nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaf: Option<bool>,
    /// The agent's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
}

/// Somebody else who polls with this token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignPoller {
    /// How many polls were refused because of it.
    pub refused_polls: u32,
    /// When this was the number of them, by this pod's wall clock.
    pub at: Timestamp,
}

/// How the bot's calls went since its agent began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// That were made.
    pub made: u64,
    /// That Telegram refused.
    pub failed: u64,
}

/// What has been told of the bot's calls. Told anew when one of the two numbers has doubled: a busy day is a few writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    told: Option<Calls>,
}

/// What has been told of a foreign poller. It is told anew when the number has doubled: hours of conflicts are a few writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rival {
    told: Option<ForeignPoller>,
}

// === impl Record ===

impl Record {
    /// What to tell when the gate counts so.
    pub fn look(&mut self, now: pollux_gate::Calls) -> Option<Calls> {
        let told = self.told.unwrap_or(Calls { made: 0, failed: 0 });
        let doubled = |told: u64, now: u64| now >= told.saturating_mul(2).max(1);
        if doubled(told.made, now.made) || doubled(told.failed, now.failed) {
            self.told = Some(Calls { made: now.made, failed: now.failed });
        }
        self.told
    }
}

// === impl Rival ===

impl Rival {
    /// What to tell when the gate counts so many refused polls.
    pub fn look(&mut self, refused_polls: u32, now: Timestamp) -> Option<ForeignPoller> {
        let told = self.told.map_or(0, |told| told.refused_polls);
        if refused_polls < told || refused_polls >= told.saturating_mul(2).max(1) {
            let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
            self.told = (refused_polls > 0).then_some(ForeignPoller { refused_polls, at });
        }
        self.told
    }
}

// === impl Report ===

impl Report {
    /// What is known now.
    pub fn new(
        bot_id: i64,
        status: &Status,
        foreign_poller: Option<ForeignPoller>,
        calls: Option<Calls>,
        suppressed: &BTreeSet<String>,
    ) -> Self {
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
            token_problem: status.token_problem.map(|problem| format!("{problem:?}")),
            webhook_active: Some(status.webhook_active),
            foreign_poller,
            calls,
            suppressed: suppressed.clone(),
            deaf: Some(status.deaf),
            agent_version: Some(VERSION.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pollux_gate::{BotIdentity, TokenProblem};

    use super::*;

    #[test]
    fn the_controller_reads_these_names() {
        let bot = BotIdentity { id: 42, username: "echo_bot".into() };
        let status = Status { token: TokenState::Rejected, bot: Some(bot), ..Status::default() };
        let foreign = ForeignPoller { refused_polls: 3, at: Timestamp::from_second(1_800_000_000).unwrap() };
        let suppressed = BTreeSet::from(["setWebhook".to_owned()]);
        let json = serde_json::to_value(Report::new(
            42,
            &status,
            Some(foreign),
            Some(Calls { made: 9, failed: 2 }),
            &suppressed,
        ))
        .unwrap();
        assert_eq!(json["botId"], 42);
        assert_eq!(json["username"], "echo_bot");
        assert_eq!(json["tokenAccepted"], false);
        assert!(json["tokenError"].as_str().unwrap().contains("@BotFather"));
        assert_eq!(json["foreignPoller"], serde_json::json!({"refusedPolls": 3, "at": "2027-01-15T08:00:00Z"}));
        assert_eq!(json["suppressed"], serde_json::json!(["setWebhook"]));
        assert_eq!(json["webhookActive"], false);
        assert_eq!(json["calls"], serde_json::json!({"made": 9, "failed": 2}));
        assert!(json.get("tokenProblem").is_none());
        for (problem, word) in [
            (TokenProblem::OtherBot, "OtherBot"),
            (TokenProblem::Refused, "Refused"),
            (TokenProblem::Unreadable, "Unreadable"),
        ] {
            let status = Status { token_problem: Some(problem), ..status.clone() };
            assert_eq!(
                serde_json::to_value(Report::new(42, &status, None, None, &suppressed)).unwrap()["tokenProblem"],
                word
            );
        }
        assert_eq!(json["deaf"], false);
        assert_eq!(json["agentVersion"], VERSION);
    }

    #[test]
    fn a_token_that_was_not_tried_is_neither_accepted_nor_rejected() {
        let json = serde_json::to_value(Report::new(42, &Status::default(), None, None, &BTreeSet::new())).unwrap();
        assert!(json.get("tokenAccepted").is_none());
        assert!(json.get("foreignPoller").is_none() && json.get("suppressed").is_none());
    }

    #[test]
    fn a_busy_day_is_a_few_writes_and_the_first_failures_are_told_at_once() {
        let mut record = Record::default();
        assert_eq!(record.look(pollux_gate::Calls::default()), None);
        let mut told: Vec<_> =
            (1..=100_000).filter_map(|made| record.look(pollux_gate::Calls { made, failed: 0 })).collect();
        told.dedup();
        assert_eq!(told.len(), 17);
        for (failed, expected) in [(1, 1), (2, 2), (3, 2), (4, 4)] {
            let told = record.look(pollux_gate::Calls { made: 100_000 + failed, failed }).unwrap();
            assert_eq!(told.failed, expected);
        }
    }

    #[test]
    fn hours_of_conflicts_are_a_few_writes() {
        let mut rival = Rival::default();
        let at = |second: u32| Timestamp::from_second(1_800_000_000 + i64::from(second)).unwrap();
        assert_eq!(rival.look(0, at(0)), None);
        let mut told: Vec<_> = (1..=1000).filter_map(|n| rival.look(n, at(30 * n))).collect();
        told.dedup();
        assert_eq!(told.iter().map(|t| t.refused_polls).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(told[3].at, at(240));
        assert_eq!(rival.look(0, at(40_000)), None, "it is gone");
        assert_eq!(rival.look(1, at(50_000)).unwrap().at, at(50_000), "another one");
    }
}
