//! Requests and polls.

use std::sync::Arc;
use std::time::Duration;

use pollux_gate::core::{Input, Outcome, PollArgs, Reply};
use pollux_gate::{Event, Settings, TokenState};

use super::{TTL, World};

#[test]
fn r04_a_request_is_answered_at_its_own_timeout_and_not_later() {
    let mut world = World::new();
    let request = world.ask(1, 30);
    world.pass(29_999);
    assert_eq!(world.answered(request), None);
    world.pass(1);
    assert_eq!(world.answered(request), Some(Reply::Empty));
}

#[test]
fn r04_a_timeout_is_clamped_to_what_telegram_allows() {
    for (asked, held) in [(-5, 0), (0, 0), (59, 50), (100_000, 50)] {
        let mut world = World::new();
        let request = world.ask(1, asked);
        assert_eq!(world.answered(request).is_some(), held == 0, "{asked}");
        world.pass(held * 1000);
        assert!(world.answered(request).is_some(), "{asked}");
    }
}

#[test]
fn r04_a_hot_loop_is_slowed_to_three_seconds() {
    let mut world = World::new();
    world.ask(5, 0);
    world.pass(100);
    let again = world.ask(5, 0);
    assert_eq!(world.answered(again), None);
    world.pass(3000);
    assert_eq!(world.answered(again), Some(Reply::Empty));
    let other = world.ask(6, 0);
    assert_eq!(world.answered(other), Some(Reply::Empty), "another offset is no repetition");
}

#[test]
fn r05_a_standby_polls_nothing() {
    let mut world = World::new();
    world.ask(1, 30);
    world.pass(20_000);
    assert!(world.poll.is_none());
}

#[test]
fn r06_the_held_request_becomes_the_first_poll_with_what_is_left_of_its_time() {
    let mut world = World::new();
    let request = world.ask(17, 30);
    world.pass(23_000);
    world.lead(1);
    assert_eq!(world.query().offset, Some(17));
    assert_eq!(world.query().timeout_seconds, 7);
    world.brings(&[17]);
    assert!(world.given(request, 1));
}

#[test]
fn r06_a_takeover_in_the_last_moment_of_a_request_polls_at_once() {
    let mut world = World::new();
    let request = world.ask(17, 30);
    world.pass(29_500);
    world.lead(1);
    assert_eq!(world.query().timeout_seconds, 0);
    world.brings(&[]);
    assert_eq!(world.answered(request), Some(Reply::Empty), "the bot asks anew");
}

#[test]
fn r07_allowed_updates_of_an_earlier_request_are_remembered() {
    let mut world = World::new();
    let list: Arc<str> = r#"["message"]"#.into();
    let first =
        world.ask_with(PollArgs { timeout: Some(1), allowed_updates: Some(list.clone()), ..PollArgs::default() });
    world.pass(1000);
    assert_eq!(world.answered(first), Some(Reply::Empty), "it was swallowed by the standby");
    world.ask(0, 30);
    world.lead(1);
    assert_eq!(world.query().allowed_updates, Some(list));
}

#[test]
fn r07_a_batch_is_bounded_and_a_smaller_limit_is_kept() {
    let mut world = World::new();
    world.lead(1);
    world.ask_with(PollArgs { limit: Some(100), timeout: Some(5), ..PollArgs::default() });
    assert_eq!(world.query().limit, 20);
    world.brings(&[1]);
    world.ask_with(PollArgs { offset: Some(2), limit: Some(3), timeout: Some(5), ..PollArgs::default() });
    assert_eq!(world.query().limit, 3);
}

#[test]
fn r07_a_poll_does_not_outlive_the_lease_and_is_repeated_until_the_bots_timeout() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    let mut polls = Vec::new();
    while world.answered(request).is_none() {
        let seconds = world.query().timeout_seconds;
        polls.push(seconds);
        for _ in 0..seconds {
            world.pass(1000);
            world.lead(1);
        }
        world.brings(&[]);
    }
    assert_eq!(polls.iter().sum::<u16>(), 30);
    assert!(polls.iter().all(|seconds| (1..=10).contains(seconds)), "{polls:?}");
}

/// In Fast failover the fence is a second ahead and moves on twice a second.
#[test]
fn r07_a_short_fence_makes_no_row_of_short_polls() {
    let mut world = World::new();
    world.lead_for(1, 1000);
    let request = world.ask(1, 30);
    let mut polls = Vec::new();
    while world.answered(request).is_none() {
        let seconds = world.query().timeout_seconds;
        polls.push(seconds);
        for _ in 0..seconds * 2 {
            world.pass(500);
            world.lead_for(1, 1000);
        }
        world.brings(&[]);
    }
    assert_eq!(polls, [10, 10, 10], "no longer than the lease: a stopped process leaves nothing that outlives it");
    world.ask(1, 30);
    world.pass(1000);
    assert_eq!(world.cancels, 1, "at the fence it is cancelled here");
}

/// Telegram holds a repeated short poll for three seconds, so a bot that polls so is held as long, whatever the bound: else each
/// of its polls would end in a reset.
#[test]
fn r07_a_bound_of_one_second_makes_no_row_of_resets() {
    let mut world = World::with(Settings { long_poll: Duration::from_secs(1), ..Settings::default() });
    world.lead_for(1, 3_600_000);
    let mut last = None;
    for _ in 0..6 {
        let request = world.ask(1, 30);
        let seconds = u64::from(world.query().timeout_seconds);
        let hammers = last.is_some_and(|last| world.now - last < Duration::from_secs(3));
        assert!(seconds >= if hammers { 3 } else { 1 });
        last = Some(world.now);
        world.pass(seconds * 1000);
        assert_eq!(world.answered(request), None);
        world.brings(&[]);
        assert_eq!(world.answered(request), Some(Reply::Empty));
    }
    assert_eq!(world.cancels, 0);
}

#[test]
fn r08_an_answer_that_comes_after_the_fence_is_dropped() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    world.written();
    let (id, _) = world.poll.clone().unwrap();
    // The process was stopped: nothing woke the core at its fence.
    world.now = world.now + Duration::from_millis(TTL);
    world.step(Input::PollEnded(id, Outcome::Updates(vec![1])));
    assert_eq!(world.answered(request), None);
    assert_eq!(world.status().leading, None);
}

#[test]
fn r08_an_answer_that_races_with_a_drain_is_dropped() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    world.written();
    let (id, _) = world.poll.clone().unwrap();
    world.step(Input::Drain);
    world.step(Input::PollEnded(id, Outcome::Updates(vec![1])));
    assert_eq!(world.answered(request), None);
}

#[test]
fn r09_an_offset_in_the_near_future_is_brought_back() {
    let mut world = World::new();
    world.lead(1);
    world.ask(5, 30);
    world.brings(&[5, 6]);
    world.ask(12, 30);
    assert_eq!(world.query().offset, Some(7), "Telegram would delete 7 to 11 undelivered");
}

#[test]
fn r09_other_offsets_are_not_touched() {
    let mut world = World::new();
    world.lead(1);
    world.ask(100, 30);
    assert_eq!(world.query().offset, Some(100), "nothing was delivered yet");
    world.brings(&[100]);
    for offset in [101, 50, 112, 0] {
        world.ask(offset, 30);
        assert_eq!(world.query().offset, Some(offset));
    }
}

#[test]
fn r10_the_newest_request_is_served_and_the_older_one_waits_for_its_timeout() {
    let mut world = World::new();
    world.lead(1);
    let older = world.ask(1, 3);
    let newest = world.ask(2, 30);
    assert_eq!((world.cancels, world.query().offset), (1, Some(2)));
    world.lead(1);
    world.pass(2999);
    assert_eq!(world.answered(older), None);
    world.pass(1);
    assert_eq!(world.answered(older), Some(Reply::Empty));
    world.brings(&[2]);
    assert!(world.given(newest, 1));
}

#[test]
fn r10_a_repeated_request_takes_over_the_open_poll() {
    let mut world = World::new();
    world.lead(1);
    let older = world.ask(1, 30);
    let newest = world.ask(1, 30);
    assert_eq!(world.cancels, 0);
    world.step(Input::Abandoned(older));
    assert_eq!(world.cancels, 0, "the poll serves the newer request");
    world.brings(&[1]);
    assert!(world.given(newest, 1));
}

#[test]
fn r10_a_bot_that_goes_away_takes_its_poll_with_it() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    world.step(Input::Abandoned(request));
    assert!(world.poll.is_none());
    assert_eq!(world.cancels, 1);
}

#[test]
fn r11_failures_are_retried_with_growing_pauses_and_the_bot_sees_none() {
    let mut world = World::new();
    world.lead_for(1, 60_000);
    let request = world.ask(1, 30);
    let begun = world.now;
    let mut retries = Vec::new();
    while world.answered(request).is_none() {
        if world.poll.is_some() {
            retries.push((world.now - begun).as_millis());
            world.ends(Outcome::Failed);
        }
        world.pass(1);
    }
    assert!((5..=9).contains(&retries.len()), "{retries:?}");
    assert!(retries[1] - retries[0] >= 400 && retries[4] - retries[3] >= 3000, "{retries:?}");
    assert_eq!(world.answered(request), Some(Reply::Empty));
    assert_eq!((world.now - begun).as_secs(), 30);
}

#[test]
fn r11_a_flood_wait_is_obeyed() {
    let mut world = World::new();
    world.lead_for(1, 60_000);
    world.ask(1, 30);
    world.ends(Outcome::FloodWait(Duration::from_secs(7)));
    world.pass(6999);
    assert!(world.poll.is_none());
    world.pass(1);
    assert!(world.poll.is_some());
}

#[test]
fn r11_an_idle_connection_that_was_closed_is_no_failure() {
    let mut world = World::new();
    world.lead(1);
    world.ask(1, 30);
    world.ends(Outcome::Stale);
    assert!(world.poll.is_some(), "asked again at once, over a new connection");
}

#[test]
fn r11_a_silent_upstream_does_not_hold_the_bot() {
    let mut world = World::new();
    world.lead_for(1, 60_000);
    let request = world.ask(1, 10);
    world.written();
    world.pass(10_999);
    assert_eq!(world.answered(request), None, "the answer may still be on its way");
    world.pass(1);
    assert_eq!((world.answered(request), world.cancels), (Some(Reply::Empty), 1));
}

#[test]
fn r13_at_the_fence_the_poll_is_cancelled_without_a_word_from_anybody() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    world.written();
    world.pass(TTL - 1);
    assert_eq!(world.cancels, 0);
    world.pass(1);
    assert_eq!((world.cancels, world.status().leading), (1, None));
    assert_eq!(world.answered(request), None, "the bot is held on as on any standby");
    world.pass(20_000);
    assert_eq!(world.answered(request), Some(Reply::Empty));
}

#[test]
fn r13_a_renewal_moves_the_fence() {
    let mut world = World::new();
    world.lead(1);
    world.ask(1, 50);
    for _ in 0..10 {
        world.pass(2000);
        world.lead(1);
        if world.poll.as_ref().is_some_and(|poll| poll.1.timeout_seconds > 0) && world.status().leading.is_none() {
            panic!("deposed though renewed");
        }
    }
    assert_eq!(world.cancels, 0);
}

#[test]
fn r13b_a_leader_whose_database_is_away_polls_until_its_fence_and_leads_again_afterwards() {
    let mut world = World::new();
    world.lead(1);
    world.ask(1, 50);
    world.pass(TTL);
    assert!(world.poll.is_none());
    world.pass(5000);
    world.lead(1);
    assert!(world.poll.is_some(), "the same epoch: nobody had taken over");
}

#[test]
fn r17_a_negative_offset_is_answered_at_once_and_reaches_nobody() {
    for leads in [false, true] {
        let mut world = World::new();
        if leads {
            world.lead(1);
        }
        let request = world.ask(-1, 30);
        assert_eq!(world.answered(request), Some(Reply::Empty));
        assert!(world.poll.is_none());
        assert_eq!(world.events, [Event::Suppressed { method: "getUpdates" }]);
    }
}

#[test]
fn r18_a_webhook_that_the_bot_does_not_want_is_deleted_once_on_a_conflict() {
    let mut world = World::new();
    world.step(Input::WebhookUnwanted { drop: false });
    assert_eq!(world.deletes, 0, "a standby deletes nothing");
    world.lead_for(1, 60_000);
    world.ask(1, 30);
    world.ends(Outcome::WebhookActive);
    assert_eq!(world.deletes, 1);
    world.step(Input::WebhookDeleted(true));
    assert!(world.poll.is_some(), "polled on at once");
    world.ends(Outcome::WebhookActive);
    world.pass(25_000);
    assert_eq!(world.deletes, 1, "somebody sets it again: a person must decide");
    assert!(world.status().webhook_active);
}

#[test]
fn r18_without_the_bots_wish_a_webhook_stays() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 5);
    world.ends(Outcome::WebhookActive);
    assert_eq!((world.deletes, world.status().webhook_active), (0, true));
    world.pass(5000);
    assert_eq!(world.answered(request), Some(Reply::Empty));
}

#[test]
fn r25_the_first_conflict_after_a_takeover_is_retried_at_once_and_only_once() {
    let mut world = World::new();
    world.lead_for(1, 60_000);
    world.ask(1, 50);
    world.pass(200);
    world.ends(Outcome::Conflict);
    assert_eq!(world.events.last(), Some(&Event::LateRequest));
    assert!(world.poll.is_some(), "the slot is taken back");
    assert_eq!(world.status().foreign_conflicts, 0);
    world.ends(Outcome::Conflict);
    assert_eq!(world.events.last(), Some(&Event::ForeignPoller));
    assert!(world.poll.is_none() && world.status().foreign_conflicts == 1);
    world.pass(2300);
    assert!(world.poll.is_none());
    world.pass(1400);
    assert!(world.poll.is_some(), "three seconds, give or take a fifth");
}

#[test]
fn r25_a_conflict_long_after_the_takeover_is_a_foreign_poller_until_ten_minutes_pass_without() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.pass(10_000);
    world.ask(1, 50);
    world.ends(Outcome::Conflict);
    assert_eq!(world.events.last(), Some(&Event::ForeignPoller));
    world.pass(50_000);
    world.ask(2, 50);
    world.ends(Outcome::Conflict);
    assert_eq!(world.status().foreign_conflicts, 2);
    assert_eq!(
        world.events.iter().filter(|event| **event == Event::ForeignPoller).count(),
        1,
        "one event, not one a poll"
    );
    world.pass(599_999);
    assert_eq!(world.status().foreign_conflicts, 2);
    world.pass(1);
    assert_eq!(world.status().foreign_conflicts, 0);
    world.ask(3, 50);
    world.ends(Outcome::Conflict);
    assert_eq!(world.status().foreign_conflicts, 1, "another one");
}

#[test]
fn r26_a_refused_token_holds_the_bot_and_a_new_token_is_tried_at_once() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    let request = world.ask(1, 5);
    world.ends(Outcome::Unauthorized);
    assert_eq!(world.status().token, TokenState::Rejected);
    assert_eq!(world.status().leading, Some(1), "the lease is kept");
    world.pass(5000);
    assert_eq!(world.answered(request), Some(Reply::Empty));
    world.ask(1, 50);
    world.pass(24_000);
    assert!(world.poll.is_none(), "asked again after 30 to 60 s");
    world.step(Input::TokenChanged);
    assert!(world.poll.is_some());
    world.brings(&[1]);
    assert_eq!(world.status().token, TokenState::Accepted);
    assert_eq!(world.events.iter().filter(|event| **event == Event::TokenRejected).count(), 1);
}

#[test]
fn r27_a_bot_with_a_long_queue_gets_no_more_until_it_fits_the_drain() {
    let mut world = World::new();
    world.lead_for(1, 3_600_000);
    world.ask(1, 30);
    world.brings(&[1, 2, 3, 4, 5, 6, 7, 8]);
    world.ask(9, 50);
    assert!(world.poll.is_some());
    world.pass(2400);
    world.call(100);
    world.brings(&[9]);
    world.ask(10, 50);
    assert!(world.poll.is_none(), "8 x 2.5 s are owed");
    for _ in 0..4 {
        world.pass(2400);
        world.call(100);
    }
    assert!(world.poll.is_some(), "4 x 2.5 s are half of the drain");
}

#[test]
fn r29_nothing_is_kept_for_a_bot_that_was_gone_when_its_answer_came() {
    let mut world = World::new();
    world.lead(1);
    let request = world.ask(1, 30);
    world.brings(&[1, 2]);
    world.step(Input::Undelivered(request));
    let again = world.ask(1, 30);
    assert_eq!(world.query().offset, Some(1), "Telegram is asked for them again");
    world.brings(&[1, 2]);
    assert!(world.given(again, 2));
}

#[test]
fn the_first_poll_of_each_leadership_is_told_once() {
    let mut world = World::new();
    world.ask(1, 50);
    world.lead(4);
    world.written();
    let first = Event::FirstPoll { epoch: 4, at: world.now };
    assert_eq!(world.events, [first]);
    world.brings(&[]);
    world.written();
    assert_eq!(world.events.len(), 1);
    world.pass(100);
    world.lead(5);
    world.written();
    assert_eq!(world.events[1], Event::FirstPoll { epoch: 5, at: world.now });
}
