//! A handover that somebody asked for: to this pod, and nothing ends here (R31).
//!
//! A request is a row that stays until another replaces it, so it is an order only to whoever leads when it comes. A standby has
//! seen it and forgets it, and so does an agent that starts: else each leader to come would obey an old one.
//!
//! The drain is for nothing if the named pod cannot take the lease then: it is tried while the lease says that this very pod
//! would be next, every [`AGAIN`], and once if it says that another one would. A lease that was kept is polled under again.

use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::Drained;
use pollux_lease::{HandOver, HandedOver, Lease, Reason, Request, Role, View};
use tokio::time::sleep;

use crate::bot::Bot;
use crate::drain::{HANDOVER_LIMIT, report};

/// Pause between two attempts.
pub const AGAIN: Duration = Duration::from_secs(5);
/// Candidates that are told of a handover beat faster than this. The bot is served meanwhile.
const WARMING: Duration = Duration::from_millis(300);

/// The request that this leader has not fulfilled.
#[derive(Debug, Default)]
pub struct Directed {
    seen: Option<String>,
    wanted: Option<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    to_pod: String,
    tried: Option<BootInstant>,
}

// === impl Directed ===

impl Directed {
    /// The pod to hand over to now.
    pub fn look(&mut self, view: &View, me: &str, now: BootInstant) -> Option<String> {
        let leads = view.role != Role::Standby;
        if let Some(Request { id, to_pod }) = view.request.as_ref().filter(|r| self.seen.as_ref() != Some(&r.id)) {
            self.seen = Some(id.clone());
            self.wanted = (leads && to_pod != me).then(|| Wanted { to_pod: to_pod.clone(), tried: None });
        }
        if !leads {
            self.wanted = None;
        }
        let wanted = self.wanted.as_mut()?;
        let next = view.successor.as_ref()?;
        let again = *next == wanted.to_pod;
        if wanted.tried.is_some_and(|tried| !again || now.saturating_since(tried) < AGAIN) {
            return None;
        }
        wanted.tried = Some(now);
        Some(wanted.to_pod.clone())
    }
}

/// Drains and hands over; a lease that is kept is polled under again, unless the pod's own drain has begun meanwhile. Tells how
/// long the second part took, too.
pub async fn hand_over(bot: &Bot, lease: &Lease, to_pod: String) -> (Drained, HandedOver, Duration) {
    lease.expect_handover(true);
    sleep(WARMING).await;
    let drained = bot.drain().await;
    let drain_ended = BootInstant::now();
    let order = HandOver {
        drain: Some(report(&drained)),
        last_poll_ended: drained.last_poll_ended,
        to_pod: Some(to_pod),
        only_to_successor: true,
        ..HandOver::new(Reason::Manual)
    };
    let handed = tokio::time::timeout(HANDOVER_LIMIT, lease.hand_over(order)).await;
    let handed = handed.unwrap_or(HandedOver::Unknown);
    if !matches!(handed, HandedOver::To { .. } | HandedOver::Released) {
        bot.resume();
    }
    (drained, handed, BootInstant::now() - drain_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(seconds))
    }

    fn view(leads: bool, request: Option<(&str, &str)>, successor: Option<&str>) -> View {
        let role = match leads {
            true => Role::Leader { epoch: 1, fence: at(1000), since: at(0) },
            false => Role::Standby,
        };
        let request = request.map(|(id, to_pod)| Request { id: id.into(), to_pod: to_pod.into() });
        View { role, request, successor: successor.map(Into::into), ..View::default() }
    }

    #[test]
    fn a_request_that_comes_to_a_leader_is_obeyed() {
        let mut directed = Directed::default();
        assert_eq!(directed.look(&view(true, None, Some("b")), "a", at(1)), None);
        assert_eq!(directed.look(&view(true, Some(("1", "b")), Some("b")), "a", at(2)).as_deref(), Some("b"));
    }

    #[test]
    fn an_old_request_is_not_obeyed_by_a_later_leader() {
        let mut directed = Directed::default();
        assert_eq!(directed.look(&view(false, Some(("1", "b")), None), "a", at(1)), None);
        assert_eq!(directed.look(&view(true, Some(("1", "b")), Some("b")), "a", at(2)), None);
        assert_eq!(directed.look(&view(true, Some(("2", "b")), Some("b")), "a", at(3)).as_deref(), Some("b"));
        assert_eq!(directed.look(&view(false, Some(("2", "b")), None), "a", at(4)), None);
        assert_eq!(directed.look(&view(true, Some(("2", "b")), Some("b")), "a", at(60)), None, "it was fulfilled");
    }

    #[test]
    fn a_request_for_the_leader_itself_is_fulfilled() {
        let mut directed = Directed::default();
        assert_eq!(directed.look(&view(true, Some(("1", "a")), Some("b")), "a", at(1)), None);
    }

    #[test]
    fn a_pod_that_becomes_ready_later_gets_the_lease_later_and_a_failure_is_no_storm() {
        let mut directed = Directed::default();
        let request = Some(("1", "b"));
        assert_eq!(directed.look(&view(true, request, None), "a", at(1)), None, "nobody is ready");
        assert_eq!(directed.look(&view(true, request, Some("b")), "a", at(2)).as_deref(), Some("b"));
        assert_eq!(directed.look(&view(true, request, Some("b")), "a", at(6)), None);
        assert_eq!(directed.look(&view(true, request, Some("b")), "a", at(7)).as_deref(), Some("b"));
    }

    #[test]
    fn a_pod_that_is_not_the_next_one_is_tried_once() {
        let mut directed = Directed::default();
        let request = Some(("1", "b"));
        assert_eq!(directed.look(&view(true, request, Some("c")), "a", at(1)).as_deref(), Some("b"));
        assert_eq!(directed.look(&view(true, request, Some("c")), "a", at(60)), None);
        assert_eq!(directed.look(&view(true, request, Some("b")), "a", at(61)).as_deref(), Some("b"));
    }
}
