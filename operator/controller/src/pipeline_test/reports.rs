//! What agents know of Telegram and of their bots, on its way to people.

use super::*;

/// A bot that runs, whose agent reports this too.
fn reporting(report: Value) -> Observed {
    let mut observed = running(json!({}));
    add(&mut observed, report);
    observed
}

fn add(observed: &mut Observed, report: Value) {
    let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
    view.candidates[0].report.as_object_mut().unwrap().extend(report.as_object().unwrap().clone());
}

/// The events of a look that finds `now` after `before`, and the status that is written then.
fn next(before: &TelegramBotStatus, mut now: Observed) -> (TelegramBotStatus, Vec<(EventReason, String)>) {
    now.bot.status = Some(before.clone());
    let told = told(&now);
    let events = between(before, &told, false).into_iter().map(|event| (event.reason, event.note)).collect();
    (told, events)
}

fn reasons(events: &[(EventReason, String)]) -> Vec<EventReason> {
    events.iter().map(|(reason, _)| *reason).collect()
}

/// The library would have said so, but the agent keeps this error from it.
#[test]
fn webhook_that_somebody_set_is_told_with_the_way_out() {
    let told = told(&reporting(json!({"webhookActive": true})));
    assert_eq!(reason(&told, ConditionType::Available), ("False".into(), "WebhookActive".into()));
    assert_eq!(told.phase, Phase::Degraded);
    for words in ["refuses polls", "stop that one first", "deleteWebhook", "drop_pending_updates"] {
        assert!(told.message.contains(words), "{}", told.message);
    }
}

/// The same.
#[test]
fn somebody_else_who_polls_is_told_with_how_often_and_when() {
    let before = told(&running(json!({})));
    assert_eq!(reason(&before, ConditionType::ForeignPoller), ("False".into(), "None".into()));
    let seen = |polls: u32| reporting(json!({"foreignPoller": {"refusedPolls": polls, "at": "2027-01-15T08:00:00Z"}}));
    let (first, events) = next(&before, seen(1));
    assert_eq!(reason(&first, ConditionType::ForeignPoller), ("True".into(), "ConflictsSeen".into()));
    assert_eq!(reason(&first, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert_eq!(first.phase, Phase::Running, "nothing is restarted for it");
    assert_eq!(reasons(&events), [EventReason::ForeignPollerDetected]);
    for words in ["somebody else polls", "refused 1 polls", "2027-01-15T08:00:00Z", "@BotFather"] {
        assert!(first.message.contains(words) && events[0].1.contains(words), "{} {events:?}", first.message);
    }
    let (more, events) = next(&first, seen(64));
    assert!(more.message.contains("refused 64 polls"), "{}", more.message);
    assert_eq!(events, [], "one event for all of it");
    let (gone, events) = next(&more, running(json!({})));
    assert_eq!(reason(&gone, ConditionType::ForeignPoller), ("False".into(), "None".into()));
    assert_eq!((gone.message.as_str(), events), ("", vec![]));
}

#[test]
fn somebody_else_who_polls_is_not_forgotten_because_the_database_is_silent() {
    let seen = reporting(json!({"foreignPoller": {"refusedPolls": 4, "at": "2027-01-15T08:00:00Z"}}));
    let before = told(&seen);
    let silent = Observed { lease: Seen::Unreachable { error: "connection refused".into() }, ..seen };
    let (still, events) = next(&before, silent);
    let of = |status: &TelegramBotStatus| status.condition(ConditionType::ForeignPoller).unwrap().message.clone();
    assert_eq!(of(&still), of(&before));
    assert!(!reasons(&events).contains(&EventReason::ForeignPollerDetected), "{events:?}");
    let nobody = fresh(json!({}));
    assert_eq!(reason(&told(&nobody), ConditionType::ForeignPoller), ("Unknown".into(), "Unknown".into()));
    let (gone, _) = next(&before, nobody);
    assert_eq!(reason(&gone, ConditionType::ForeignPoller).0, "False", "no agent polls, so nobody disturbs one");
}

#[test]
fn calls_that_were_not_passed_on_are_one_event_each() {
    let before = told(&running(json!({})));
    let asked = || reporting(json!({"suppressed": ["deleteWebhook", "setWebhook"]}));
    let (told, events) = next(&before, asked());
    assert_eq!(told.suppressed_calls, ["deleteWebhook", "setWebhook"]);
    assert_eq!(reasons(&events), [EventReason::CallSuppressed; 2]);
    assert!(events[0].1.contains("spec.polling.pendingUpdates"), "{events:?}");
    assert!(events[1].1.contains("would end polling"), "{events:?}");
    assert_eq!((told.phase, told.message.as_str()), (Phase::Running, ""), "the bot works");
    let (again, events) = next(&told, asked());
    assert_eq!((&again, events), (&told, vec![]), "nothing is written either");
    let silent = Observed { lease: Seen::Unreachable { error: "refused".into() }, ..asked() };
    assert_eq!(next(&told, silent).0.suppressed_calls, told.suppressed_calls);
    let many: Vec<String> = (0..99).map(|n| format!("method{n:02}{}", "x".repeat(n))).collect();
    assert_eq!(
        next(&told, reporting(json!({"suppressed": many}))).0.suppressed_calls.len(),
        16,
        "what fits the schema"
    );
}

#[test]
fn leader_that_went_before_its_bot_had_finished_says_what_it_leaves() {
    let observed = running(json!({}));
    let before = told(&observed);
    let Seen::Bot(Some(view)) = &observed.lease else { unreachable!() };
    let revision = view.candidates[0].party.replica.revision.clone();
    let handed = |outcome: &str| {
        let mut view = led_by("echo-new", &revision, 2);
        let handover = view.last_handover.as_mut().unwrap();
        handover.from = Some(party("echo-old", &revision));
        handover.reason = "PodDeleted".into();
        let took = Duration::from_secs(20);
        handover.drain = Some(DrainReport { took, outcome: outcome.into(), unacknowledged: 3, owed: 2 });
        Observed { lease: Seen::Bot(Some(Box::new(view))), ..running(json!({})) }
    };
    let (told, events) = next(&before, handed("timed_out"));
    let counts = told.last_handover.as_ref().map(|h| (h.unacknowledged_updates, h.owed_updates));
    assert_eq!(counts, Some((Some(3), Some(2))));
    assert_eq!(reasons(&events), [EventReason::LeaderChanged, EventReason::DrainTimedOut]);
    for words in ["echo-old", "3 updates may be repeated", "working on 2", "drainTimeoutSeconds"] {
        assert!(events[1].1.contains(words), "{events:?}");
    }
    assert_eq!(next(&told, handed("timed_out")).1, [], "once");
    assert_eq!(reasons(&next(&before, handed("complete")).1), [EventReason::LeaderChanged]);
}

#[test]
fn deaf_leader_is_an_event_whether_or_not_somebody_else_could_lead() {
    let before = told(&running(json!({})));
    let (alone, events) = next(&before, reporting(json!({"deaf": true})));
    assert_eq!(reason(&alone, ConditionType::Available), ("False".into(), "LeaderDeaf".into()));
    assert_eq!(reasons(&events), [EventReason::LeaderDeaf]);
    assert_eq!(next(&alone, reporting(json!({"deaf": true}))).1, []);

    // Its lease was given away before anybody had looked.
    let gave = || {
        let mut observed = running(json!({}));
        let Seen::Bot(Some(view)) = &mut observed.lease else { unreachable!() };
        view.lease.epoch = 2;
        let handover = view.last_handover.as_mut().unwrap();
        (handover.epoch, handover.from) = (2, Some(party("echo-deaf", "r")));
        handover.reason = "BotDeaf".into();
        observed
    };
    let (_, events) = next(&before, gave());
    assert_eq!(reasons(&events), [EventReason::LeaderChanged, EventReason::LeaderDeaf]);
    assert!(events[1].1.contains("kubectl logs echo-deaf -c bot"), "{events:?}");
    assert_eq!(reasons(&next(&alone, gave()).1), [EventReason::LeaderChanged], "that was told when it was seen");
}
