use super::*;

const FIRST: i32 = 500_000;

/// A server, and numbers for its requests.
struct Bench {
    server: Server,
    next: RequestId,
}

/// What happened to requests, in a form that is short to compare: ids are counted from `FIRST`.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Delivered(RequestId, Vec<i32>),
    Evicted(RequestId, RequestId),
    Conflict(RequestId, Conflict),
    Removed(Vec<i32>, Removal),
}
use Seen::{Conflict as Conflicted, Delivered, Evicted, Removed};

fn s(seconds: f64) -> At {
    Duration::from_secs_f64(seconds)
}

fn seen(effects: Vec<Effect>) -> Vec<Seen> {
    let relative = |ids: Vec<i32>| ids.into_iter().map(|id| id - FIRST).collect();
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Deliver { request, updates } => {
                Delivered(request, relative(updates.iter().map(|u| u.id).collect()))
            }
            Effect::Evicted { request, by } => Evicted(request, by),
            Effect::Conflict { request, cause } => Conflicted(request, cause),
            Effect::Removed { ids, why, .. } => Removed(relative(ids), why),
        })
        .collect()
}

impl Bench {
    fn new() -> Self {
        Self { server: Server::new(FIRST), next: 0 }
    }

    fn with(updates: usize) -> Self {
        let mut bench = Self::new();
        for _ in 0..updates {
            bench.push(0.0);
        }
        bench
    }

    fn push(&mut self, at: f64) -> Option<i32> {
        self.push_as(at, Kind::Message).ok()
    }

    fn push_as(&mut self, at: f64, kind: Kind) -> Result<i32, KeptOut> {
        self.server.push(s(at), Key { kind, chat: 1 }, |id| format!("{{\"update_id\":{id}}}"))
    }

    fn call(&mut self, at: f64, args: &GetUpdates) -> Vec<Seen> {
        self.next += 1;
        seen(self.server.get_updates(s(at), self.next, args))
    }

    /// getUpdates with an offset relative to `FIRST`.
    fn poll(&mut self, at: f64, offset: i32, timeout: i32) -> Vec<Seen> {
        self.raw(at, FIRST + offset, timeout)
    }

    fn raw(&mut self, at: f64, offset: i32, timeout: i32) -> Vec<Seen> {
        self.call(at, &GetUpdates { offset, timeout, ..GetUpdates::default() })
    }

    fn tick(&mut self, at: f64) -> Vec<Seen> {
        seen(self.server.tick(s(at)))
    }

    fn set_webhook(&mut self, at: f64, url: &str, drop: bool) -> (WebhookAnswer, Vec<Seen>) {
        self.next += 1;
        let args = SetWebhook { url: url.to_owned(), drop_pending_updates: drop, ..SetWebhook::default() };
        let (answer, effects) = self.server.set_webhook(s(at), self.next, &args);
        (answer, seen(effects))
    }
}

// === queue and confirmation ===

#[test]
fn a_poll_with_updates_waiting_is_answered_at_once() {
    assert_eq!(Bench::with(2).poll(0.0, 0, 30), [Delivered(1, vec![0, 1])]);
}

#[test]
fn what_is_not_confirmed_is_delivered_again() {
    let mut b = Bench::with(2);
    b.poll(0.0, 0, 0);
    assert_eq!(b.poll(10.0, 0, 0), [Delivered(2, vec![0, 1])]);
}

#[test]
fn an_offset_confirms_everything_below_it() {
    let mut b = Bench::with(3);
    assert_eq!(b.poll(0.0, 2, 0), [Removed(vec![0, 1], Removal::Confirmed), Delivered(1, vec![2])]);
    assert_eq!(b.server.pending_updates(), 1);
}

#[test]
fn limit_is_100_at_most_and_1_at_least() {
    let mut b = Bench::with(150);
    let limited = |limit| GetUpdates { limit, ..GetUpdates::default() };
    for (n, limit, given) in [(0, None, 100), (1, Some(500), 100), (2, Some(0), 1), (3, Some(7), 7)] {
        let effects = b.call(f64::from(n) * 10.0, &limited(limit));
        assert!(matches!(&effects[..], [Delivered(_, ids)] if ids.len() == given), "{limit:?}: {effects:?}");
    }
}

#[test]
fn an_answer_stops_at_4_mib() {
    let mut b = Bench::new();
    for _ in 0..20 {
        let message = Key { kind: Kind::Message, chat: 1 };
        let _ = b.server.push(s(0.0), message, |_| "x".repeat(500_000));
    }
    let effects = b.poll(0.0, 0, 0);
    assert!(matches!(&effects[..], [Delivered(_, ids)] if ids.len() == 8), "{effects:?}");
}

#[test]
fn a_negative_offset_keeps_the_last_ones_and_deletes_the_others() {
    let mut b = Bench::with(5);
    let expected = [Removed(vec![0, 1, 2], Removal::NegativeOffset), Delivered(1, vec![3, 4])];
    assert_eq!(b.raw(0.0, -2, 0), expected);
    assert_eq!(b.server.pending_updates(), 2, "the last ones stay unconfirmed");
}

#[test]
fn offset_0_and_offset_1_start_at_the_head() {
    let mut b = Bench::with(2);
    assert_eq!(b.raw(0.0, 0, 0), [Delivered(1, vec![0, 1])]);
    assert_eq!(b.raw(10.0, 1, 0), [Delivered(2, vec![0, 1])], "far in the past: from the head");
}

#[test]
fn an_offset_far_in_the_future_is_ignored() {
    assert_eq!(Bench::with(2).poll(0.0, 2 + 11, 0), [Delivered(1, vec![0, 1])]);
}

#[test]
fn an_offset_up_to_tail_plus_10_deletes_what_arrives_below_it() {
    let mut b = Bench::with(1);
    assert_eq!(b.poll(0.0, 5, 0), [Removed(vec![0], Removal::Confirmed), Delivered(1, vec![])]);
    b.push(1.0);
    let expected = [Removed(vec![1], Removal::Confirmed), Delivered(2, vec![])];
    assert_eq!(b.poll(10.0, 5, 0), expected, "deleted, never delivered");
}

#[test]
fn an_expired_update_is_not_delivered() {
    let mut b = Bench::new();
    b.push_as(0.0, Kind::InlineQuery).expect("room");
    b.push_as(0.0, Kind::CallbackQuery).expect("room");
    assert_eq!(b.poll(31.0, 0, 0), [Removed(vec![0], Removal::Expired), Delivered(1, vec![1])]);
    assert_eq!(b.poll(151.0, 0, 0), [Removed(vec![1], Removal::Expired), Delivered(2, vec![])]);
}

// === long poll ===

#[test]
fn an_empty_queue_holds_the_poll_until_its_timeout() {
    let mut b = Bench::new();
    assert_eq!(b.poll(0.0, 0, 30), []);
    assert_eq!(b.server.deadline(), Some(s(30.0)));
    assert_eq!(b.tick(29.999), []);
    assert_eq!(b.tick(30.0), [Delivered(1, vec![])]);
}

#[test]
fn a_timeout_is_50_s_at_most() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 3600);
    assert_eq!(b.server.deadline(), Some(s(50.0)));
}

#[test]
fn timeout_0_is_answered_at_once_with_nothing() {
    assert_eq!(Bench::new().poll(0.0, 0, 0), [Delivered(1, vec![])]);
}

#[test]
fn a_new_update_wakes_the_poll_1_ms_later() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    b.push(5.0);
    assert_eq!(b.tick(5.0005), []);
    assert_eq!(b.tick(5.001), [Delivered(1, vec![0])]);
}

#[test]
fn updates_that_come_together_are_delivered_together_within_2_ms() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    for at in [5.0, 5.0008, 5.0016] {
        b.push(at);
        assert_eq!(b.tick(at), []);
    }
    assert_eq!(b.server.deadline(), Some(s(5.002)), "the first one waits 2 ms at most");
    assert_eq!(b.tick(5.002), [Delivered(1, vec![0, 1, 2])]);
}

// === two pollers ===

#[test]
fn a_new_poll_evicts_the_older_one_which_gets_409_at_once() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    let expected = [Evicted(1, 2), Conflicted(1, Conflict::GetUpdates)];
    assert_eq!(b.poll(10.0, 0, 30), expected, "the new one never gets it");
    assert_eq!(b.server.pending(), Some(2));
}

#[test]
fn a_second_conflict_within_3_s_is_answered_3_s_late() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    b.poll(10.0, 1, 30);
    assert_eq!(b.poll(11.0, 0, 30), [Evicted(2, 3)]);
    assert_eq!(b.tick(13.999), []);
    assert_eq!(b.tick(14.0), [Conflicted(2, Conflict::GetUpdates)]);
}

#[test]
fn a_conflict_3_s_after_the_last_immediate_one_is_immediate_again() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    b.poll(10.0, 1, 30);
    b.poll(12.9, 0, 30);
    assert_eq!(b.poll(13.0, 1, 30), [Evicted(3, 4), Conflicted(3, Conflict::GetUpdates)]);
}

#[test]
fn a_short_poll_does_not_evict() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    assert_eq!(b.poll(10.0, 1, 0), [Delivered(2, vec![])]);
    assert_eq!(b.server.pending(), Some(1));
}

#[test]
fn a_poll_that_is_answered_with_updates_leaves_the_pending_one_pending() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    b.push(10.0);
    assert_eq!(b.poll(10.0005, 0, 30), [Delivered(2, vec![0])]);
    assert_eq!(b.tick(10.001), [Delivered(1, vec![0])], "both get it: nothing was confirmed in between");
}

#[test]
fn two_pollers_get_the_same_updates_without_any_conflict() {
    let mut b = Bench::with(3);
    assert_eq!(b.poll(0.0, 0, 30), [Delivered(1, vec![0, 1, 2])]);
    assert_eq!(b.raw(0.1, 0, 30), [Delivered(2, vec![0, 1, 2])]);
}

// === anti-hammer ===

#[test]
fn the_same_offset_within_3_s_makes_a_short_poll_one_of_3_s() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 0);
    assert_eq!(b.poll(2.9, 0, 0), []);
    assert_eq!(b.server.deadline(), Some(s(5.9)));
    assert_eq!(b.tick(5.9), [Delivered(2, vec![])]);
}

#[test]
fn a_repeated_short_poll_evicts() {
    let mut b = Bench::new();
    b.poll(0.0, 1, 30);
    b.poll(10.0, 0, 0);
    assert_eq!(b.poll(11.0, 0, 0), [Evicted(1, 3), Conflicted(1, Conflict::GetUpdates)]);
}

#[test]
fn the_same_offset_after_3_s_is_answered_at_once() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 0);
    assert_eq!(b.poll(3.0, 0, 0), [Delivered(2, vec![])]);
}

#[test]
fn another_offset_is_answered_at_once() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 0);
    assert_eq!(b.poll(0.1, 1, 0), [Delivered(2, vec![])]);
}

#[test]
fn a_timeout_of_3_s_or_more_is_kept() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 0);
    b.poll(1.0, 0, 10);
    assert_eq!(b.server.deadline(), Some(s(11.0)));
}

#[test]
fn the_same_offset_within_half_a_second_gets_one_update() {
    let mut b = Bench::with(3);
    b.poll(0.0, 0, 0);
    assert_eq!(b.poll(0.49, 0, 0), [Delivered(2, vec![0])]);
    assert_eq!(b.poll(0.99, 0, 0), [Delivered(3, vec![0, 1, 2])], "half a second after the last one");
}

#[test]
fn the_raw_offset_counts_not_the_one_it_stands_for() {
    let mut b = Bench::with(3);
    b.raw(0.0, 0, 0);
    assert_eq!(b.raw(0.1, FIRST, 0), [Delivered(2, vec![0, 1, 2])]);
}

// === webhooks ===

const URL: &str = "https://example.com/hook";
const GET_WITH_WEBHOOK: [Seen; 2] = [Evicted(2, 2), Conflicted(2, Conflict::WebhookActive)];

#[test]
fn get_updates_with_a_webhook_set_is_a_conflict_at_once_then_after_3_s() {
    let mut b = Bench::with(1);
    assert_eq!(b.set_webhook(0.0, URL, false).0, WebhookAnswer::Ok("Webhook was set"));
    assert_eq!(b.poll(1.0, 0, 30), GET_WITH_WEBHOOK);
    assert_eq!(b.poll(2.0, 0, 30), [Evicted(3, 3)]);
    assert_eq!(b.tick(5.0), [Conflicted(3, Conflict::WebhookActive)]);
    assert_eq!(b.server.pending_updates(), 1, "nothing was confirmed");
}

#[test]
fn set_webhook_evicts_the_pending_poll() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    let (answer, effects) = b.set_webhook(1.0, URL, false);
    assert_eq!(answer, WebhookAnswer::Ok("Webhook was set"));
    assert_eq!(effects, [Evicted(1, 2), Conflicted(1, Conflict::SetWebhook)]);
}

#[test]
fn delete_webhook_without_a_webhook_does_not_disturb_the_pending_poll() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    assert_eq!(b.set_webhook(1.0, "", false), (WebhookAnswer::Ok("Webhook is already deleted"), vec![]));
    assert_eq!(b.server.pending(), Some(1));
}

#[test]
fn delete_webhook_makes_polling_possible_again() {
    let mut b = Bench::with(1);
    b.set_webhook(0.0, URL, false);
    assert_eq!(b.set_webhook(1.0, "", false).0, WebhookAnswer::Ok("Webhook was deleted"));
    assert_eq!(b.poll(2.0, 0, 30), [Delivered(3, vec![0])]);
}

#[test]
fn drop_pending_updates_empties_the_queue_even_without_a_webhook() {
    let mut b = Bench::with(2);
    assert_eq!(b.set_webhook(0.0, "", true).1, [Removed(vec![0, 1], Removal::Dropped)]);
    assert_eq!(b.server.pending_updates(), 0);
}

#[test]
fn more_than_one_set_webhook_a_second_is_429() {
    let mut b = Bench::new();
    b.set_webhook(0.0, URL, false);
    assert_eq!(b.set_webhook(0.9, URL, false).0, WebhookAnswer::RetryAfter(1));
    assert_eq!(b.set_webhook(1.0, URL, false).0, WebhookAnswer::Ok("Webhook is already set"));
}

#[test]
fn a_webhook_needs_an_https_url() {
    let mut b = Bench::new();
    let refused = WebhookAnswer::BadRequest("Bad Request: bad webhook: An HTTPS URL must be provided for webhook");
    assert_eq!(b.set_webhook(0.0, "http://example.com", false).0, refused);
    assert_eq!(b.poll(1.0, 0, 0), [Delivered(2, vec![])], "it was not set");
}

// === allowed_updates, close ===

#[test]
fn allowed_updates_stay_until_another_list_comes() {
    let mut b = Bench::new();
    let with = |list: &str| GetUpdates { allowed_updates: Some(list.to_owned()), ..GetUpdates::default() };
    b.call(0.0, &with(r#"["callback_query"]"#));
    assert_eq!(b.push(1.0), None, "messages are not wanted");
    b.poll(10.0, 0, 0);
    b.call(20.0, &with("null"));
    b.call(30.0, &with("[bad"));
    assert_eq!(b.push(31.0), None, "missing and bad lists change nothing");
    b.call(40.0, &with("[]"));
    assert_eq!(b.push(41.0), Some(FIRST), "an empty list is the default one");
}

#[test]
fn three_types_are_off_until_a_list_names_them() {
    let mut b = Bench::new();
    for kind in Kind::ALL {
        let off = matches!(kind, Kind::ChatMember | Kind::MessageReaction | Kind::MessageReactionCount);
        assert_eq!(b.push_as(0.0, kind).is_err(), off, "{kind:?}");
    }
    let list = Some(r#"["Chat_Member", "no such type"]"#.to_owned());
    b.call(10.0, &GetUpdates { allowed_updates: list, ..GetUpdates::default() });
    assert!(b.push_as(11.0, Kind::ChatMember).is_ok());
    assert_eq!(b.push_as(11.0, Kind::Message), Err(KeptOut::Unwanted));
    assert_eq!(b.server.allowed_updates(), Some(vec!["chat_member"]));
    let list = Some(r#"["no such type"]"#.to_owned());
    b.call(20.0, &GetUpdates { allowed_updates: list, ..GetUpdates::default() });
    assert_eq!(b.server.allowed_updates(), None, "nothing that is known: the default set");
}

#[test]
fn close_answers_the_pending_poll_and_log_out_empties_the_queue() {
    let mut b = Bench::new();
    b.poll(0.0, 0, 30);
    assert_eq!(seen(b.server.close(s(1.0), 9, false)), [Delivered(1, vec![])]);
    b.push(2.0);
    assert_eq!(seen(b.server.close(s(3.0), 10, true)), [Removed(vec![0], Removal::Dropped)]);
}
