//! The protocol under every schedule with a few things going wrong.
//!
//! The processes are the production [`Core`]; the server is [`Server`], which says in Rust what the statements say in SQL.
//! By default everything is prompt: messages arrive in order, processes act when they want to, and time goes on to the next
//! instant at which somebody wants something. A *deviation* from that is whatever the world may do: stop a process, hold a
//! message back and let it arrive at any later time, or twice, cut a connection, kill a process, restart the server and make it
//! forget, change a setting, forge a notification. stateright explores **every** schedule with at most so many deviations,
//! breadth first, so what it finds is a shortest counterexample.
//!
//! Clocks differ in speed by 3 %, which is what the protocol assumes at worst. The invariants are those of docs/lease.md, checked after every single step.

mod checks;
mod schedule;
mod sessions;
mod variants;
mod world;

use std::time::Duration;

use stateright::{Model, Property};

use super::rules::{Rule, Timing};
pub(super) use schedule::Deviation;
use world::World;

const TTL: Duration = Duration::from_secs(10);

/// What is explored.
#[derive(Clone, Debug)]
pub(super) struct Exploration {
    pub(super) without: Option<Rule>,
    pub(super) timing: Timing,
    /// A rule of the world that the protocol relies on, broken.
    pub(super) broken: Option<Assumption>,
    pub(super) cast: Cast,
    /// The TTL that is set in the beginning.
    pub(super) ttl: Duration,
    /// Failover by sessions.
    pub(super) fast: bool,
    /// How many things go wrong in one schedule.
    pub(super) deviations: u8,
    /// Which ones.
    pub(super) palette: Vec<Deviation>,
    /// How long a schedule lasts.
    pub(super) horizon: Duration,
}

/// What the protocol takes for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Assumption {
    /// The clock goes on while the machine sleeps.
    ClockRunsInSuspend,
    /// A candidate measures silence with its own clock, not with the database's, which may be set.
    CandidatesOwnClock,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cast {
    /// Two pods of one revision.
    Two,
    /// Three.
    Three,
    /// Two pods, of which the second's revision may not lead.
    Rejected,
    /// A second process begins in the pod of a living one; a third one waits elsewhere.
    Twins,
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    /// What happens by default, up to the next point at which it matters what happens.
    Go,
    /// What was stopped, held or cut goes on.
    Resume(usize),
    Release(usize),
    Mend(usize),
    /// Something goes wrong, to this process or at this place.
    Deviate(Deviation, usize),
    /// Everything that was stopped goes on, nothing goes wrong any more, and some time passes.
    Heal,
}

// === impl Exploration ===

impl Exploration {
    /// The protocol as it is.
    pub(super) fn safe(cast: Cast, deviations: u8, horizon: Duration) -> Self {
        Self {
            without: None,
            timing: Timing::PRODUCTION,
            broken: None,
            cast,
            ttl: TTL,
            fast: false,
            deviations,
            palette: Deviation::ALL.to_vec(),
            horizon,
        }
    }
}

impl Model for Exploration {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        [[985, 1015], [1015, 985]].map(|speeds| World::new(self, speeds)).into()
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        world.acts(self, acts);
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        next.act(self, act);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties()
    }
}
