//! The invariants, and the ghost that remembers what they are about.

use std::collections::{BTreeMap, BTreeSet};

use stateright::Property;

use super::Exploration;
use super::world::World;

/// The invariants of docs/lease.md, by their numbers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I7,
    I8,
    I9,
    I10,
    I11,
}

/// What has happened, as nobody in the model can know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    /// The latest grant, also if the server has forgotten it.
    pub(super) top: Option<(i64, String)>,
    /// Who was granted which epoch.
    pub(super) owners: BTreeMap<i64, String>,
    /// The highest epoch that each process has sent an order to give away under.
    pub(super) ordered: BTreeMap<String, i64>,
    pub(super) broken: BTreeSet<Invariant>,
}

// === impl Witness ===

impl Witness {
    pub(super) fn fails(&mut self, invariant: Invariant) {
        self.broken.insert(invariant);
    }

    /// A new holder.
    pub(super) fn granted(&mut self, epoch: i64, id: &str) {
        if self.owners.contains_key(&epoch) {
            self.fails(Invariant::I3);
        } else if self.top.as_ref().is_some_and(|(top, _)| epoch < *top) {
            self.fails(Invariant::I2);
        }
        self.owners.insert(epoch, id.to_owned());
        self.top = Some((epoch, id.to_owned()));
    }

    /// A holder has renewed, or given away.
    pub(super) fn acted(&mut self, epoch: i64, id: &str) {
        if self.top != Some((epoch, id.to_owned())) {
            self.fails(Invariant::I5);
        }
    }
}

macro_rules! properties {
    ($($invariant:ident $name:literal)*) => {
        /// By name, for the checker.
        pub(super) fn properties() -> Vec<Property<Exploration>> {
            vec![$(Property::always($name, |_, world: &World| !world.witness.broken.contains(&Invariant::$invariant))),*]
        }

        impl Invariant {
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$invariant => $name),* }
            }
        }
    };
}

properties! {
    I1 "I1: at no instant two processes may poll"
    I2 "I2: epochs rise, also after a rollback"
    I3 "I3: an epoch has one holder"
    I4 "I4: nobody is granted the lease before the fence of another one"
    I5 "I5: a deposed process neither renews nor gives away"
    I7 "I7: who has sent an order to give away polls no more"
    I8 "I8: evidence counts only for the state that it is about"
    I9 "I9: in the end somebody leads"
    I10 "I10: without a fault or an order the holder stays"
    I11 "I11: only an eligible revision becomes the leader"
}
