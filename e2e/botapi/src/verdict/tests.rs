use super::*;
use crate::model::{Delivery, Peer, Removal, Removed, Reply};

/// The records of one bot, written down by hand. Times are seconds.
#[derive(Default)]
struct Story {
    polls: Vec<PollRecord>,
    updates: Vec<UpdateRecord>,
    marks: Vec<(At, Mark)>,
}

fn s(seconds: f64) -> At {
    Duration::from_secs_f64(seconds)
}

fn peer(lane: &str) -> Peer {
    Peer { lane: lane.to_owned(), ip: "127.0.0.1".to_owned(), connection: 1 }
}

impl Story {
    /// A poll of `lane`; without an end it is open.
    fn poll(&mut self, lane: &str, from: f64, to: impl Into<Option<f64>>) -> &mut PollRecord {
        let ended = to.into().map(s);
        self.polls.push(PollRecord {
            request: self.polls.len() as u64 + 1,
            peer: peer(lane),
            arrived: s(from),
            ended,
            gone: None,
            end: if ended.is_some() { PollEnd::Answered } else { PollEnd::Open },
            evicted_by: None,
            offset: 0,
            limit: 100,
            timeout: 30,
            delivered: None,
            updates: 0,
            open_polls: 1,
        });
        self.polls.last_mut().expect("pushed")
    }

    /// A poll that was evicted by the next one.
    fn evicted(&mut self, lane: &str, from: f64, to: f64) -> &mut PollRecord {
        let next = self.polls.len() as u64 + 2;
        let poll = self.poll(lane, from, to);
        poll.end = PollEnd::Conflict { cause: Conflict::GetUpdates };
        poll.evicted_by = Some(next);
        poll
    }

    /// An update that was delivered, confirmed and answered at the given times.
    fn update(&mut self, pushed: f64, delivered: Option<f64>, confirmed: Option<f64>, replies: &[f64]) {
        let deliveries = delivered.iter().map(|at| Delivery { at: s(*at), request: 1, peer: peer("a"), usable: true });
        let removed = confirmed.map(|at| Removed {
            at: s(at),
            why: Removal::Confirmed,
            request: Some(1),
            lane: Some("a".to_owned()),
        });
        let replies = replies.iter().map(|at| Reply { at: s(*at), request: 2, peer: peer("a") });
        self.updates.push(UpdateRecord {
            id: self.updates.len() as i32,
            pushed: s(pushed),
            chat: 1,
            deliveries: deliveries.collect(),
            removed,
            replies: replies.collect(),
        });
    }

    fn mark(&mut self, at: f64, kind: MarkKind) {
        self.marks.push((s(at), Mark::new(kind, format!("{kind:?} at {at}"))));
    }

    fn judge(&self) -> BotVerdict {
        Case {
            username: "bot",
            bot_id: 1,
            polls: &self.polls,
            updates: &self.updates,
            stray: 0,
            refused: 0,
            dropped: 0,
            forgotten: 0,
            marks: &self.marks,
            window: s(5.0),
            now: s(1000.0),
            patience: Duration::ZERO,
        }
        .judge()
    }
}

fn counts(lost: u64, dup: u64, conflict: u64) -> Counts {
    Counts { lost, dup, conflict }
}

// === updates ===

#[test]
fn confirmed_and_never_answered_is_lost() {
    let mut story = Story::default();
    story.update(0.0, Some(1.0), Some(2.0), &[]);
    story.update(0.0, Some(1.0), Some(2.0), &[3.0]);
    let v = story.judge();
    assert_eq!((v.counts, v.ids.lost, v.answered), (counts(1, 0, 0), vec![0], 1));
}

#[test]
fn answered_twice_is_a_dup_whether_confirmed_or_not() {
    let mut story = Story::default();
    story.update(0.0, Some(1.0), Some(2.0), &[3.0, 4.0]);
    story.update(0.0, Some(1.0), None, &[3.0, 4.0, 5.0]);
    let v = story.judge();
    assert_eq!((v.counts, v.ids.dup), (counts(0, 2, 0), vec![0, 1]));
}

#[test]
fn still_in_the_queue_is_undelivered_and_not_lost() {
    let mut story = Story::default();
    story.update(0.0, None, None, &[]);
    story.update(0.0, Some(1.0), None, &[]);
    let v = story.judge();
    assert_eq!((v.counts, v.undelivered), (counts(0, 0, 0), 2));
}

#[test]
fn deleted_without_ever_being_delivered_is_lost() {
    let mut story = Story::default();
    story.update(0.0, None, Some(2.0), &[]);
    assert_eq!(story.judge().counts.lost, 1);
}

// === windows ===

#[test]
fn losses_in_a_crash_window_stand_apart() {
    let mut story = Story::default();
    story.mark(100.0, MarkKind::Crash);
    story.update(80.0, Some(95.0), Some(96.0), &[]);
    story.update(0.0, Some(1.0), Some(2.0), &[3.0, 110.0]);
    story.update(131.0, Some(131.0), Some(132.0), &[]);
    let v = story.judge();
    assert_eq!(v.crash, counts(1, 1, 0), "something of their life was 10 s before to 30 s after");
    assert_eq!(v.counts, counts(1, 0, 0), "31 s after is no crash any more");
}

#[test]
fn losses_in_a_planned_window_count_and_are_named() {
    let mut story = Story::default();
    story.mark(100.0, MarkKind::Planned);
    story.update(100.0, Some(101.0), Some(102.0), &[]);
    story.update(200.0, Some(201.0), Some(202.0), &[]);
    let v = story.judge();
    assert_eq!((v.counts.lost, v.planned.lost, v.crash.lost), (2, 1, 0));
}

#[test]
fn a_note_is_no_window() {
    let mut story = Story::default();
    story.mark(100.0, MarkKind::Note);
    story.update(100.0, Some(101.0), Some(102.0), &[]);
    assert_eq!(story.judge().counts.lost, 1);
}

// === conflicts ===

#[test]
fn a_conflict_counts_when_its_sender_could_read_it() {
    let mut story = Story::default();
    story.evicted("a", 0.0, 10.0);
    story.evicted("b", 10.0, 20.0).gone = Some(s(15.0));
    story.poll("a", 20.0, None);
    let v = story.judge();
    assert_eq!((v.counts.conflict, v.conflicts.get_updates, v.conflicts.unseen), (1, 1, 1));
}

#[test]
fn injected_conflicts_stand_apart_and_webhook_ones_count() {
    let mut story = Story::default();
    story.poll("a", 0.0, 0.0).end = PollEnd::Conflict { cause: Conflict::Injected };
    story.poll("a", 1.0, 1.0).end = PollEnd::Conflict { cause: Conflict::WebhookActive };
    story.poll("a", 2.0, 2.0).end = PollEnd::Conflict { cause: Conflict::SetWebhook };
    let v = story.judge();
    assert_eq!((v.counts.conflict, v.conflicts.injected), (2, 1));
    assert_eq!((v.conflicts.webhook_active, v.conflicts.set_webhook), (1, 1));
}

/// `a` is paused, `b` takes over, `a` wakes and its request that was already written evicts `b` once.
fn paused_poller() -> Story {
    let mut story = Story::default();
    story.evicted("a", 0.0, 10.0);
    story.evicted("b", 10.0, 20.0);
    story.evicted("a", 20.0, 20.1).open_polls = 2;
    story.poll("b", 20.1, None);
    story
}

#[test]
fn a_late_request_within_a_crash_window_is_no_handover_and_its_conflicts_stand_apart() {
    let mut story = paused_poller();
    story.mark(5.0, MarkKind::Crash);
    let v = story.judge();
    assert_eq!((v.late, v.conflicts.late_request, v.handovers.len()), (1, 2, 1));
    assert_eq!((v.counts.conflict, v.crash.conflict), (0, 1), "only the takeover's own one is left");
    assert_eq!((v.open_polls_max, v.open_polls_max_crash), (0, 2));
}

#[test]
fn outside_a_crash_window_nothing_excuses_a_former_poller() {
    let v = paused_poller().judge();
    assert_eq!((v.late, v.conflicts.late_request, v.counts.conflict, v.handovers.len()), (0, 0, 3, 3));
    assert_eq!(v.open_polls_max, 2);
}

// === handovers ===

#[test]
fn a_gap_is_from_the_end_of_the_old_pollers_last_poll_to_the_new_ones_first() {
    let mut story = Story::default();
    story.poll("a", 0.0, 4.0);
    story.poll("a", 4.0, None).gone = Some(s(9.9));
    story.poll("b", 10.0, None);
    for pushed in [4.0, 5.0, 15.0, 15.1] {
        story.update(pushed, None, None, &[]);
    }
    let v = story.judge();
    let [h] = &v.handovers[..] else { panic!("{:?}", v.handovers) };
    assert_eq!((h.from.as_str(), h.to.as_str(), h.overlap), ("a", "b", false));
    assert_eq!(h.gap.as_millis(), 100);
    assert_eq!((h.in_window, v.in_windows), (2, 2), "5 s before to 5 s after");
}

#[test]
fn a_poller_that_is_evicted_by_its_successor_overlapped_with_it() {
    let mut story = Story::default();
    story.evicted("a", 0.0, 10.0);
    story.poll("b", 10.0, None);
    let [h] = &story.judge().handovers[..] else { panic!("one handover") };
    assert_eq!((h.overlap, h.gap), (true, Duration::ZERO));
}

#[test]
fn one_poller_on_many_connections_is_no_handover() {
    let mut story = Story::default();
    story.poll("a", 0.0, 1.0);
    story.poll("a", 1.0, None).peer.connection = 2;
    assert_eq!(story.judge().handovers, []);
}

#[test]
fn updates_in_two_windows_are_counted_once() {
    let mut story = Story::default();
    story.poll("a", 0.0, 10.0);
    story.poll("b", 10.0, 11.0);
    story.poll("a", 11.0, None);
    story.update(10.5, None, None, &[]);
    let v = story.judge();
    assert_eq!((v.handovers[0].in_window, v.handovers[1].in_window, v.in_windows), (1, 1, 1));
}

#[test]
fn handovers_name_the_marks_they_belong_to() {
    let mut story = Story::default();
    story.mark(8.0, MarkKind::Planned);
    story.mark(9.0, MarkKind::Note);
    story.poll("a", 0.0, 10.0);
    story.poll("b", 10.0, None);
    let [h] = &story.judge().handovers[..] else { panic!("one handover") };
    assert_eq!((h.marks.clone(), h.crash), (vec!["Planned at 8".to_owned()], false));
}

// === silence, marks, sums ===

#[test]
fn what_left_the_queue_a_moment_ago_is_in_progress_for_who_has_patience() {
    let mut story = Story::default();
    story.update(0.0, Some(985.0), Some(989.0), &[]);
    story.update(0.0, Some(985.0), Some(991.0), &[]);
    let case = |patience| Case {
        username: "bot",
        bot_id: 1,
        polls: &[],
        updates: &story.updates,
        stray: 0,
        refused: 0,
        dropped: 0,
        forgotten: 0,
        marks: &[],
        window: s(5.0),
        now: s(1000.0),
        patience,
    };
    let (patient, strict) = (case(s(10.0)).judge(), case(Duration::ZERO).judge());
    assert_eq!((patient.counts.lost, patient.in_progress), (1, 1));
    assert_eq!((strict.counts.lost, strict.in_progress), (2, 0));
}

#[test]
fn a_bot_that_works_off_a_batch_is_not_silent() {
    let mut story = Story::default();
    story.poll("a", 0.0, 1.0);
    story.poll("a", 5.0, 6.0);
    story.update(0.5, Some(1.0), Some(5.0), &[2.0]);
    story.update(0.5, Some(1.0), Some(5.0), &[3.5]);
    assert_eq!(story.judge().longest_silence, s(1.5));
}

#[test]
fn silence_is_the_time_without_an_open_poll() {
    let mut story = Story::default();
    story.poll("a", 0.0, 4.0);
    story.poll("a", 5.0, 9.0);
    story.poll("b", 12.0, 20.0);
    let v = story.judge();
    assert_eq!(v.longest_silence, s(3.0));
    let silences: Vec<_> = v.lanes.iter().map(|l| (l.lane.as_str(), l.longest_silence)).collect();
    assert_eq!(silences, [("a", s(1.0)), ("b", s(0.0))], "a did not fall silent while b polled");
}

#[test]
fn a_mark_is_followed_by_the_next_poll_and_the_next_poller() {
    let mut story = Story::default();
    story.mark(5.0, MarkKind::Crash);
    story.poll("a", 0.0, 6.0);
    story.poll("a", 7.0, 8.0);
    story.poll("b", 15.0, None);
    let [m] = &story.judge().marks[..] else { panic!("one mark") };
    assert_eq!((m.poller.as_deref(), m.next_poll_lane.as_deref()), (Some("a"), Some("a")));
    assert_eq!((m.next_poll, m.takeover, m.takeover_lane.as_deref()), (Some(s(2.0)), Some(s(10.0)), Some("b")));
}

#[test]
fn the_total_sums_bots_and_leaves_crash_gaps_out() {
    let mut planned = Story::default();
    planned.poll("a", 0.0, 10.0);
    planned.poll("b", 10.02, None);
    planned.update(10.0, Some(10.0), Some(10.1), &[]);
    let mut crash = Story::default();
    crash.mark(5.0, MarkKind::Crash);
    crash.poll("a", 0.0, None).gone = Some(s(5.0));
    crash.poll("b", 15.0, None);
    crash.update(4.9, Some(4.9), Some(5.0), &[]);
    let total = Verdict::of(vec![planned.judge(), crash.judge()]).total;
    assert_eq!((total.counts.lost, total.crash.lost, total.handovers), (1, 1, 2));
    assert_eq!(total.gap_max.as_millis(), 20);
}

#[test]
fn a_verdict_reads_back_what_it_wrote() {
    let mut story = paused_poller();
    story.mark(5.0, MarkKind::Crash);
    let verdict = Verdict::of(vec![story.judge()]);
    let text = serde_json::to_string(&verdict).expect("JSON");
    assert_eq!(serde_json::from_str::<Verdict>(&text).expect("the same shape"), verdict);
    assert!(text.contains(r#""gap_ms":"#) && text.contains(r#""lost":0"#), "{text}");
}
