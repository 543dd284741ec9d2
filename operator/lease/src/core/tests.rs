//! One process against a scripted row and a clock that stands until it is moved.

use std::time::Duration;

use pollux_clock::BootInstant;
use serde_json::json;

use super::*;
use crate::identity::{Replica, Resource};
use crate::view::{HandOver, HandedOver, Reason};

const TTL: Duration = Duration::from_secs(10);

struct Rig {
    core: Core,
    now: BootInstant,
    sent: Option<Call>,
    settled: Vec<HandedOver>,
}

fn replica(pod: &str) -> Replica {
    let resource = Resource { cluster: "c".into(), namespace: "n".into(), name: "b".into() };
    Replica { resource, pod: pod.into(), pod_uid: format!("uid-{pod}"), node: "n".into(), revision: "new".into() }
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// Somebody's row.
fn row(holder: Option<&str>, epoch: i64, renew_seq: i64) -> Row {
    Row {
        epoch,
        renew_seq,
        settled: true,
        ttl_ms: 10_000,
        holder: holder.map(str::to_owned),
        replica: replica(holder.unwrap_or("nobody")),
        ..Row::default()
    }
}

fn answer(done: bool, row: Row) -> Answer {
    told(done, row, Around::default())
}

fn told(done: bool, row: Row, around: Around) -> Answer {
    Answer { done, lease: Some(row), around: Some(Around { registered: true, ..around }), ..Answer::default() }
}

// === impl Rig ===

impl Rig {
    fn new(file_lock: bool) -> Self {
        let me = Me { id: crate::identity::HolderId::named("me"), replica: replica("me"), file_lock };
        let now = BootInstant::from_boot(Duration::from_secs(1000));
        Self { core: Core::new(me, TTL), now, sent: None, settled: Vec::new() }
    }

    /// Connected, ready, and about to hear what the row is.
    fn ready() -> Self {
        let mut rig = Self::new(false);
        rig.step(Event::Ready(true));
        rig.step(Event::Up { wakes: true });
        assert!(matches!(rig.sent, Some(Call::Beat(Sign { ready: true, .. }))), "{:?}", rig.sent);
        rig
    }

    /// Leads under epoch 1, with a renewal number of 1.
    fn leading() -> Self {
        let mut rig = Self::ready();
        rig.answer(true, row(None, 0, 0));
        assert_eq!(rig.sent, Some(Call::Acquire { epoch: 0, ttl: TTL }));
        rig.answer(true, row(Some("me"), 1, 1));
        assert!(rig.leads());
        rig
    }

    fn step(&mut self, event: Event) {
        for action in self.core.step(event, self.now) {
            match action {
                Action::Send(statement) => self.sent = Some(statement.call),
                Action::Settle(outcome) => self.settled.push(outcome),
                Action::Ask(_) | Action::Done => {}
            }
        }
    }

    fn answer(&mut self, done: bool, row: Row) {
        self.answered(answer(done, row));
    }

    fn answered(&mut self, answer: Answer) {
        self.sent.take().expect("a statement is under way");
        self.step(Event::Answered(Box::new(answer)));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.step(Event::Tick);
    }

    fn leads(&self) -> bool {
        self.core.role().may_poll(self.now)
    }

    fn fence(&self) -> BootInstant {
        match self.core.role() {
            Role::Leader { fence, .. } => fence,
            Role::Standby => panic!("it stands by"),
        }
    }

    /// Lets time pass in small steps, answering each look with this row, until something else is sent.
    fn watch(&mut self, row: &Row, for_: Duration) -> Option<Call> {
        let end = self.now + for_;
        while self.now < end {
            match &self.sent {
                Some(Call::Beat(_) | Call::Look) => self.answer(true, row.clone()),
                Some(other) => return Some(other.clone()),
                None => self.pass(Duration::from_millis(50)),
            }
        }
        self.sent.clone().filter(|call| !matches!(call, Call::Beat(_) | Call::Look))
    }
}

// === the holder ===

#[test]
fn a_slow_renewal_does_not_extend_the_fence() {
    let mut rig = Rig::leading();
    rig.pass(secs(2.0));
    let sent = rig.now;
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 1, renew_seq: 1, ttl: TTL, .. })), "{:?}", rig.sent);
    rig.pass(secs(1.4));
    rig.answer(true, row(Some("me"), 1, 2));
    assert_eq!(rig.fence(), sent + secs(10.0 - 0.2 - 0.05));
}

#[test]
fn at_the_fence_it_stands_by_and_leads_on_if_nobody_has_taken_over() {
    let mut rig = Rig::leading();
    let fence = rig.fence();
    rig.step(Event::Down { error: "gone".into() });
    assert!(rig.leads(), "PostgreSQL away is no reason to stop");
    rig.now = fence;
    rig.step(Event::Tick);
    assert_eq!(rig.core.role(), Role::Standby);
    rig.pass(secs(20.0));
    rig.step(Event::Up { wakes: true });
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 1, renew_seq: 1, .. })), "{:?}", rig.sent);
    rig.answer(true, row(Some("me"), 1, 2));
    assert!(rig.leads());
    assert_eq!(rig.core.role().epoch(), Some(1));
}

#[test]
fn a_shorter_ttl_counts_from_its_sending_because_the_answer_may_be_lost() {
    let mut rig = Rig::leading();
    rig.pass(secs(2.0));
    let settings = Settings { generation: 1, eligible: None, json: json!({"leaseDurationSeconds": 3}) };
    rig.answered(told(true, row(Some("me"), 1, 2), Around { setting: Some(settings), ..Around::default() }));
    let before = rig.fence();
    rig.pass(secs(2.0));
    let sent = rig.now;
    assert!(matches!(rig.sent, Some(Call::Renew { ttl, .. }) if ttl == secs(3.0)), "{:?}", rig.sent);
    assert!(rig.fence() < before);
    assert_eq!(rig.fence(), sent + secs(3.0 - 0.06 - 0.05));
}

#[test]
fn a_renewal_that_was_carried_out_unheard_is_followed_by_one_with_the_rows_number() {
    let mut rig = Rig::leading();
    rig.pass(secs(2.0));
    rig.step(Event::Down { error: "lost".into() });
    rig.sent = None;
    rig.step(Event::Up { wakes: true });
    rig.answer(false, row(Some("me"), 1, 2));
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 1, renew_seq: 2, .. })), "{:?}", rig.sent);
}

#[test]
fn a_row_that_names_somebody_else_ends_leadership_at_once() {
    let mut rig = Rig::leading();
    rig.step(Event::Woken);
    assert_eq!(rig.sent, Some(Call::Look));
    rig.answer(true, row(Some("other"), 2, 2));
    assert_eq!(rig.core.role(), Role::Standby);
}

#[test]
fn a_forged_notification_makes_it_look_and_nothing_else() {
    let mut rig = Rig::leading();
    let fence = rig.fence();
    for _ in 0..100 {
        rig.step(Event::Woken);
    }
    assert_eq!(rig.sent, Some(Call::Look), "one look at a time");
    rig.answer(true, row(Some("me"), 1, 1));
    assert_eq!(rig.fence(), fence);
}

// === becoming the holder ===

#[test]
fn a_silent_holder_is_replaced_after_its_rows_ttl_by_our_clock_and_not_before() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 50));
    let seen = rig.now;
    let call = rig.watch(&row(Some("other"), 5, 50), secs(20.0));
    let expected = Call::Takeover { epoch: 5, renew_seq: 50, evidence: Evidence::Ttl, ttl: TTL, vacate: false };
    assert_eq!(call, Some(expected));
    let waited = rig.now - seen;
    assert!(waited >= secs(10.1) && waited < secs(10.2), "{waited:?}");
    let sent = rig.now;
    rig.pass(secs(0.5));
    rig.answer(true, row(Some("me"), 6, 51));
    assert_eq!(rig.fence(), sent + secs(9.75));
    let takeover = rig.core.view(rig.now).takeover.unwrap();
    assert_eq!((takeover.epoch, takeover.from.as_deref(), takeover.evidence), (6, Some("other"), Evidence::Ttl));
}

/// Whoever may notify may do it without end: in every moment in which nothing is under way there is one more.
#[test]
fn a_flood_of_notifications_keeps_nobody_from_a_silent_holders_lease_or_from_beating() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 50));
    let (seen, mut beats) = (rig.now, 0);
    loop {
        rig.step(Event::Woken);
        match &rig.sent {
            Some(Call::Takeover { evidence: Evidence::Ttl, .. }) => break,
            Some(Call::Beat(_)) => beats += 1,
            sent => assert_eq!(*sent, Some(Call::Look)),
        }
        rig.now = rig.now + Duration::from_millis(20);
        rig.step(Event::Woken);
        rig.answer(true, row(Some("other"), 5, 50));
        assert!(rig.now - seen < secs(10.2), "it only looks");
    }
    assert!(beats >= 9, "one each second: {beats}");
}

#[test]
fn a_holder_that_renews_is_never_replaced() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 0));
    for n in 1..20 {
        assert_eq!(rig.watch(&row(Some("other"), 5, n), secs(9.0)), None);
    }
}

#[test]
fn who_is_not_ready_takes_nothing() {
    for (holder, seq) in [(None, 7), (Some("other"), 50)] {
        let mut rig = Rig::ready();
        rig.step(Event::Ready(false));
        rig.answer(true, row(holder, 5, seq));
        assert_eq!(rig.watch(&row(holder, 5, seq), secs(30.0)), None);
    }
}

#[test]
fn a_revision_that_may_not_lead_takes_nothing() {
    let mut rig = Rig::ready();
    let settings = Settings { generation: 1, eligible: Some(vec!["old".into()]), json: json!({}) };
    rig.answered(told(true, row(None, 5, 7), Around { setting: Some(settings), ..Around::default() }));
    assert_eq!(rig.sent, None);
}

#[test]
fn the_second_choice_lets_the_first_go_ahead() {
    let mut rig = Rig::ready();
    let settings = Settings { generation: 1, eligible: Some(vec!["newer".into(), "new".into()]), json: json!({}) };
    rig.answered(told(true, row(None, 5, 7), Around { setting: Some(settings), ..Around::default() }));
    assert_eq!(rig.sent, None);
    rig.pass(PRECEDENCE);
    assert_eq!(rig.sent, Some(Call::Acquire { epoch: 5, ttl: TTL }));
}

#[test]
fn after_an_outage_the_holder_gets_a_moment() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 50));
    rig.step(Event::Down { error: "restart".into() });
    rig.sent = None;
    rig.pass(secs(60.0));
    rig.step(Event::Up { wakes: true });
    let up = rig.now;
    let call = rig.watch(&row(Some("other"), 5, 50), secs(20.0));
    assert!(matches!(call, Some(Call::Takeover { .. })), "{call:?}");
    assert!(rig.now - up >= secs(5.0), "{:?}", rig.now - up);
}

#[test]
fn a_restarted_agent_with_the_file_lock_takes_its_pods_lease_at_once() {
    let mine = Row { locked: true, replica: replica("me"), ..row(Some("my earlier self"), 5, 50) };
    for ready in [true, false] {
        let mut rig = Rig::new(true);
        rig.step(Event::Ready(ready));
        rig.step(Event::Up { wakes: true });
        rig.answer(true, mine.clone());
        assert_eq!(rig.sent, None, "the earlier process may live: it has the lock");
        rig.step(Event::Locked);
        rig.answer(true, mine.clone());
        let expected = Call::Takeover { epoch: 5, renew_seq: 50, evidence: Evidence::Pod, ttl: TTL, vacate: !ready };
        assert_eq!(rig.sent, Some(expected), "who cannot lead yet frees it for those who can");
    }
}

#[test]
fn without_the_file_lock_nobody_leads() {
    let mut rig = Rig::new(true);
    rig.step(Event::Ready(true));
    rig.step(Event::Up { wakes: true });
    assert!(matches!(rig.sent, Some(Call::Beat(Sign { ready: false, .. }))), "{:?}", rig.sent);
    rig.answer(true, row(None, 5, 7));
    assert_eq!(rig.sent, None);
}

#[test]
fn a_successors_first_fence_is_dated_from_its_beat() {
    let mut rig = Rig::ready();
    let beaten = rig.now;
    rig.pass(secs(0.2));
    rig.answer(true, row(Some("other"), 5, 50));
    rig.pass(secs(0.05));
    rig.step(Event::Woken);
    let granted = Row { ttl_ms: 2000, grant_beat: Some(1), ..row(Some("me"), 6, 51) };
    rig.answer(true, granted);
    assert_eq!(rig.fence(), beaten + secs(2.0 - 0.04 - 0.05));
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 6, renew_seq: 51, ttl: TTL, .. })), "{:?}", rig.sent);
}

#[test]
fn a_successor_that_slept_through_its_grant_renews_before_it_leads() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 50));
    rig.now = rig.now + secs(9.0);
    rig.step(Event::Woken);
    rig.answer(true, Row { ttl_ms: 2000, grant_beat: Some(1), ..row(Some("me"), 6, 51) });
    assert!(!rig.leads());
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 6, .. })), "{:?}", rig.sent);
    rig.answer(true, row(Some("me"), 6, 52));
    assert!(rig.leads());
}

#[test]
fn a_lease_that_reaches_a_leaving_process_is_handed_on() {
    let mut rig = Rig::ready();
    rig.answer(true, row(Some("other"), 5, 50));
    rig.step(Event::Leave);
    assert!(matches!(rig.sent, Some(Call::Beat(Sign { ready: false, leaving: true, .. }))), "{:?}", rig.sent);
    rig.answer(true, Row { ttl_ms: 2000, grant_beat: Some(1), ..row(Some("me"), 6, 51) });
    assert!(!rig.leads());
    assert!(matches!(rig.sent, Some(Call::Handover { epoch: 6, otherwise: Otherwise::Wait, .. })), "{:?}", rig.sent);
}

/// The only one there is. An order that nobody waits for must not stand between it and its lease for ever.
#[test]
fn a_lease_that_was_to_be_handed_on_when_the_server_forgot_is_taken_anew() {
    let mut rig = Rig::ready();
    rig.answer(true, row(None, 0, 0));
    rig.step(Event::Ready(false));
    rig.answer(true, row(Some("me"), 1, 1));
    assert!(matches!(rig.sent, Some(Call::Handover { epoch: 1, .. })), "{:?}", rig.sent);
    rig.step(Event::Down { error: "cut".into() });
    rig.sent = None;
    rig.step(Event::Up { wakes: true });
    let forgot =
        || Answer { incarnation: "later".into(), ..answer(false, Row { settled: false, ..row(Some("me"), 1, 1) }) };
    rig.answered(forgot());
    rig.step(Event::Ready(true));
    let began = rig.now;
    while !matches!(rig.sent, Some(Call::Takeover { epoch: 1, vacate: false, .. })) {
        match rig.sent {
            Some(_) => rig.answered(forgot()),
            None => rig.pass(Duration::from_millis(50)),
        }
        assert!(rig.now - began < secs(20.0), "nobody leads");
    }
    assert!(rig.now - began >= secs(12.5), "not before every fence has passed");
}

#[test]
fn a_leaving_leader_keeps_its_lease_until_it_is_told_to_hand_over() {
    let mut rig = Rig::leading();
    rig.step(Event::Leave);
    rig.answer(true, row(Some("me"), 1, 1));
    rig.pass(secs(2.0));
    assert!(rig.leads());
    assert!(matches!(rig.sent, Some(Call::Renew { epoch: 1, .. })), "{:?}", rig.sent);
}

// === handing over ===

fn order() -> HandOver {
    HandOver::new(Reason::PodDeleted)
}

#[test]
fn once_an_order_is_sent_nothing_brings_its_epoch_back() {
    let mut rig = Rig::leading();
    rig.pass(secs(2.0));
    assert!(matches!(rig.sent, Some(Call::Renew { .. })));
    rig.step(Event::HandOver(order()));
    assert_eq!(rig.core.role(), Role::Standby);
    rig.answer(true, row(Some("me"), 1, 2));
    assert_eq!(rig.core.role(), Role::Standby, "a renewal that was under way");
    assert!(matches!(rig.sent, Some(Call::Handover { epoch: 1, .. })), "{:?}", rig.sent);
    rig.step(Event::Down { error: "lost".into() });
    rig.sent = None;
    rig.step(Event::Up { wakes: true });
    assert_eq!(rig.core.role(), Role::Standby);
    assert!(matches!(rig.sent, Some(Call::Handover { epoch: 1, .. })), "{:?}", rig.sent);
    rig.answer(false, row(Some("b"), 2, 3));
    assert_eq!(rig.settled, [HandedOver::To { pod: "b".into(), epoch: 2 }], "the first order came through");
}

#[test]
fn an_order_that_may_still_be_under_way_is_made_void_by_a_new_epoch() {
    let mut rig = Rig::leading();
    rig.step(Event::HandOver(order()));
    rig.step(Event::Down { error: "lost".into() });
    rig.sent = None;
    rig.pass(secs(6.0));
    assert_eq!(rig.settled, [HandedOver::Unknown]);
    rig.step(Event::Up { wakes: true });
    rig.answer(true, row(Some("me"), 1, 1));
    let retake = Call::Takeover { epoch: 1, renew_seq: 1, evidence: Evidence::Pod, ttl: TTL, vacate: false };
    assert_eq!(rig.sent, Some(retake));
    assert!(!rig.leads());
    rig.answer(true, row(Some("me"), 2, 2));
    assert!(rig.leads());
    assert_eq!(rig.core.role().epoch(), Some(2));
}

#[test]
fn a_handover_waits_for_a_fresh_beat_and_then_releases() {
    let mut rig = Rig::leading();
    rig.step(Event::HandOver(order()));
    let start = rig.now;
    loop {
        match rig.sent.clone() {
            Some(Call::Handover { otherwise: Otherwise::Wait, .. }) => rig.answer(false, row(Some("me"), 1, 1)),
            Some(Call::Handover { otherwise: Otherwise::Release, .. }) => break,
            Some(other) => panic!("{other:?}"),
            None => rig.pass(Duration::from_millis(5)),
        }
    }
    let waited = rig.now - start;
    assert!(waited >= secs(0.5) && waited < secs(0.6), "{waited:?}");
    rig.answer(true, row(None, 1, 2));
    assert_eq!(rig.settled, [HandedOver::Released]);
}

#[test]
fn only_to_a_successor_means_that_nothing_is_sent_while_there_is_none() {
    let mut rig = Rig::leading();
    rig.step(Event::HandOver(HandOver { only_to_successor: true, ..order() }));
    assert_eq!(rig.sent, Some(Call::Expect { epoch: 1, expected: true }));
    assert!(rig.leads());
    rig.answer(true, row(Some("me"), 1, 1));
    assert_eq!(rig.settled, [HandedOver::Kept]);
    assert!(rig.leads());
}

#[test]
fn only_to_a_successor_that_is_alive() {
    let mut rig = Rig::leading();
    rig.step(Event::HandOver(HandOver { only_to_successor: true, ..order() }));
    let expected = Row { handover_expected: true, ..row(Some("me"), 1, 1) };
    let with = |fresh| {
        told(true, expected.clone(), Around { heir: Some(Heir { pod: "b".into(), fresh }), ..Around::default() })
    };
    rig.answered(with(false));
    assert_eq!(rig.sent, Some(Call::Look));
    rig.answered(with(true));
    rig.pass(secs(0.01));
    assert!(matches!(rig.sent, Some(Call::Handover { otherwise: Otherwise::Keep, .. })), "{:?}", rig.sent);
    assert!(!rig.leads());
}

/// Candidates are asked for beats when the bot may be dead; when it is known to be, one look finds them.
#[test]
fn a_handover_that_was_expected_finds_its_successor_at_once() {
    let mut rig = Rig::leading();
    rig.step(Event::Expect(true));
    assert_eq!(rig.sent, Some(Call::Expect { epoch: 1, expected: true }));
    let expected = Row { handover_expected: true, ..row(Some("me"), 1, 1) };
    let with = |fresh| {
        told(true, expected.clone(), Around { heir: Some(Heir { pod: "b".into(), fresh }), ..Around::default() })
    };
    rig.answered(with(false));
    assert!(rig.leads());
    rig.step(Event::HandOver(HandOver { only_to_successor: true, ..order() }));
    assert_eq!(rig.sent, Some(Call::Look));
    rig.answered(with(true));
    assert!(matches!(rig.sent, Some(Call::Handover { otherwise: Otherwise::Keep, .. })), "{:?}", rig.sent);
}

#[test]
fn an_expectation_that_is_taken_back_leaves_the_candidates_in_peace() {
    let mut rig = Rig::leading();
    rig.step(Event::Expect(true));
    rig.answer(true, Row { handover_expected: true, ..row(Some("me"), 1, 1) });
    rig.step(Event::Expect(false));
    assert_eq!(rig.sent, Some(Call::Expect { epoch: 1, expected: false }));
    assert!(rig.leads());
}

/// The bot died, and in the same moment the pod is told to go: whoever waits for the drain must not hear that the lease was kept.
#[test]
fn a_drain_is_not_answered_by_a_handover_that_kept_the_lease() {
    let mut rig = Rig::leading();
    rig.step(Event::HandOver(HandOver { only_to_successor: true, ..order() }));
    let expected = Row { handover_expected: true, ..row(Some("me"), 1, 1) };
    rig.answered(told(
        true,
        expected.clone(),
        Around { heir: Some(Heir { pod: "b".into(), fresh: true }), ..Around::default() },
    ));
    assert!(matches!(rig.sent, Some(Call::Handover { otherwise: Otherwise::Keep, .. })), "{:?}", rig.sent);
    rig.step(Event::HandOver(order()));
    rig.answered(answer(false, expected));
    assert_eq!(rig.settled, []);
    rig.pass(secs(0.01));
    assert!(matches!(rig.sent, Some(Call::Handover { otherwise: Otherwise::Wait, .. })), "{:?}", rig.sent);
    rig.answer(true, row(Some("b"), 2, 2));
    assert_eq!(rig.settled, [HandedOver::To { pod: "b".into(), epoch: 2 }]);
}

#[test]
fn a_process_that_ends_releases_and_signs_off() {
    let mut rig = Rig::leading();
    rig.step(Event::Shutdown);
    assert!(!rig.leads());
    assert!(matches!(rig.sent, Some(Call::Handover { otherwise: Otherwise::Release, .. })), "{:?}", rig.sent);
    rig.answer(true, row(None, 1, 2));
    assert_eq!(rig.sent, Some(Call::Depart));
}

// === what is known of the others ===

#[test]
fn nobody_leads_from_the_end_of_a_lease_that_is_not_seen_renewed() {
    let mut rig = Rig::new(false);
    let from = |rig: &Rig| rig.core.view(rig.now).leaderless_from;
    assert_eq!(from(&rig), None, "nothing has been read yet");
    rig.step(Event::Up { wakes: true });
    rig.answer(true, row(Some("other"), 3, 7));
    let seen = rig.now;
    assert_eq!(from(&rig), Some(seen + TTL));
    rig.watch(&row(Some("other"), 3, 7), secs(4.0));
    assert_eq!(from(&rig), Some(seen + TTL), "no renewal was seen");
    rig.watch(&row(Some("other"), 3, 8), secs(2.0));
    assert!(from(&rig).is_some_and(|from| from > seen + TTL + secs(3.0)));
    rig.watch(&row(None, 3, 9), secs(2.0));
    let free = from(&rig).expect("a row was read");
    assert!(free <= rig.now.saturating_sub(secs(1.0)) && free > seen + secs(5.0), "since it was seen free");

    let mut rig = Rig::leading();
    assert_eq!(from(&rig), Some(rig.fence()));
    rig.step(Event::Down { error: "gone".into() });
    let answered = rig.now;
    rig.pass(secs(100.0));
    assert!(!rig.leads());
    assert_eq!(from(&rig), Some(answered), "a leader that was cut off knows of no other one");
}

// === the token ===

/// A rotation that waited too long for a lock says nothing about the token; one that is refused for the token is over, and
/// must not keep renewals and beats from being sent.
#[test]
fn a_refused_rotation_is_repeated_or_given_up_and_never_stands_in_the_way() {
    let mut rig = Rig::leading();
    rig.step(Event::Rotated);
    assert_eq!(rig.sent.take(), Some(Call::Rotate));
    rig.step(Event::Refused { error: "lock timeout".into(), another_token: false });
    rig.pass(secs(0.1));
    assert_eq!(rig.sent.take(), Some(Call::Rotate));
    rig.step(Event::Refused { error: "another token".into(), another_token: true });
    rig.pass(secs(0.2));
    assert!(matches!(rig.sent, Some(Call::Renew { .. } | Call::Beat(_))), "{:?}", rig.sent);
}
