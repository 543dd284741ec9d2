//! What agents report of Telegram and of their bots, and what follows from it for people.
//!
//! A report is what one agent knows. It counts while the agent is alive; what nobody can be asked about stays as it was told last.

use std::collections::BTreeSet;
use std::time::Duration;

use pollux_api::TelegramBotStatus;
use pollux_api::words::{ConditionType, Reason};
use pollux_lease::{BotView, Candidate};
use serde_json::Value;

use crate::status::{Facts, Finding, Summary};

/// How old the last sign of life of an agent may be for its report to count: a dead one's says nothing about today.
const HEARD: Duration = Duration::from_secs(30);

/// What the agents of this resource report, those of the manifest's revision first.
fn reports<'a>(facts: &Facts<'_>, view: &'a BotView) -> Vec<&'a Candidate> {
    let wanted = facts.plan.revision.as_ref().map(|revision| revision.name.as_str());
    let mut own: Vec<_> = view
        .candidates
        .iter()
        .filter(|c| c.party.replica.resource == facts.observed.resource && !c.leaving && c.beat_age < HEARD)
        .collect();
    own.sort_by_key(|candidate| (Some(candidate.party.replica.revision.as_str()) != wanted, candidate.beat_age));
    own
}

/// What an agent says of something; nothing if it does not know.
pub(crate) fn says(candidate: &Candidate, what: &str) -> Option<bool> {
    candidate.report.get(what).and_then(Value::as_bool)
}

/// Whether Telegram accepts the token.
pub(crate) fn token_accepted(facts: &Facts<'_>, summary: &Summary<'_>, before: &TelegramBotStatus) -> Finding {
    let reports = summary.view.map(|view| reports(facts, view)).unwrap_or_default();
    let newest = reports.first().map(|candidate| candidate.party.replica.revision.clone());
    let of_newest: Vec<_> = reports.iter().filter(|c| Some(&c.party.replica.revision) == newest.as_ref()).collect();
    let accepted = |candidate: &Candidate| says(candidate, "tokenAccepted");
    if let Some(refused) = of_newest.iter().find(|candidate| accepted(candidate) == Some(false)) {
        let token = &facts.observed.bot.spec.token_secret_ref;
        return Finding::no(
            Reason::Unauthorized,
            format!(
                "the Bot API server refuses the token in the Secret {:?}, key {:?} (asked by pod {}): get a valid one from @BotFather and put it there",
                token.name, token.key, refused.party.replica.pod
            ),
        );
    }
    let problem = reports.iter().find_map(|c| Some((c.report.get("tokenProblem")?.as_str()?, &c.party.replica.pod)));
    if let Some((problem, pod)) = problem {
        let token = &facts.observed.bot.spec.token_secret_ref;
        let secret = format!("the Secret {:?}, key {:?},", token.name, token.key);
        let (reason, what) = match problem {
            "OtherBot" => {
                (Reason::TokenChangedIdentity, "holds the token of another bot, which takes a TelegramBot of its own")
            }
            "Refused" => (Reason::Unauthorized, "holds a token that the Bot API server refuses"),
            _ => (Reason::Unauthorized, "holds no token any more"),
        };
        return Finding::no(
            reason,
            format!("{secret} {what}: put a valid token of this bot there; pod {pod} goes on with the one that it had"),
        );
    }
    if reports.iter().any(|candidate| accepted(candidate) == Some(true)) {
        return Finding::yes(Reason::Accepted, "");
    }
    // Nobody has asked, or nobody can be heard: what was known stays.
    match before.condition(ConditionType::TokenAccepted) {
        Some(old) if old.status == "True" => Finding::yes(Reason::Accepted, ""),
        Some(old) if old.status == "False" => {
            let changed = old.reason == Reason::TokenChangedIdentity.as_str();
            Finding::no(if changed { Reason::TokenChangedIdentity } else { Reason::Unauthorized }, &old.message)
        }
        _ => Finding::unknown(Reason::Unknown, "no agent has asked the Bot API server yet"),
    }
}

/// Whether somebody without a lease polls with the token. Agents forget it ten minutes after the last conflict.
pub(crate) fn foreign_poller(facts: &Facts<'_>, summary: &Summary<'_>, before: &TelegramBotStatus) -> Finding {
    let reports = summary.view.map(|view| reports(facts, view)).unwrap_or_default();
    let refused = |candidate: &&&Candidate| candidate.report["foreignPoller"]["refusedPolls"].as_u64();
    if let Some(worst) = reports.iter().filter(|c| refused(c).is_some()).max_by_key(refused) {
        let at = worst.report["foreignPoller"]["at"].as_str().unwrap_or("a time that is not known");
        return Finding::yes(
            Reason::ConflictsSeen,
            format!(
                "somebody else polls with this token too, and each update goes to one of the two: Telegram had refused {} polls of pod {} by {at}: stop the old Deployment or the laptop that it is, or revoke the token at @BotFather if it may have leaked",
                refused(&worst).unwrap_or_default(),
                worst.party.replica.pod
            ),
        );
    }
    let heard = summary.is_heard(facts);
    match before.condition(ConditionType::ForeignPoller) {
        _ if !reports.is_empty() => Finding::no(Reason::None, ""),
        Some(old) if old.status == "True" && !heard => Finding::yes(Reason::ConflictsSeen, &old.message),
        Some(old) if old.status != "Unknown" => Finding::no(Reason::None, ""),
        _ => Finding::unknown(Reason::Unknown, "no agent has polled yet"),
    }
}

/// Methods of the bot that its gate did not pass on as they were called.
pub(crate) fn suppressed_calls(facts: &Facts<'_>, summary: &Summary<'_>, before: &TelegramBotStatus) -> Vec<String> {
    let reports = summary.view.map(|view| reports(facts, view)).unwrap_or_default();
    if reports.is_empty() && !summary.is_heard(facts) {
        return before.suppressed_calls.clone();
    }
    let lists = reports.iter().filter_map(|candidate| candidate.report.get("suppressed")?.as_array());
    let methods: BTreeSet<&str> = lists.flatten().filter_map(Value::as_str).collect();
    // An agent is not trusted with the size of the status.
    methods.into_iter().filter(|method| method.len() <= 64).take(16).map(str::to_owned).collect()
}
