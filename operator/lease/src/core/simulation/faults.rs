//! What goes wrong, and what is ordered meanwhile.

use std::time::Duration;

use rand::RngExt;
use serde_json::json;
use tokio::sync::oneshot;

use super::net::{Kind, Line, Net, Pooler};
use super::{Plan, Simulation};
use crate::identity::TokenDigest;
use crate::lease::Command;
use crate::view::{HandOver, Reason, Settings};

type Fault = fn(&mut Simulation, usize);

/// Each with its weight.
const FAULTS: [(u32, Fault); 19] = [
    (12, freeze),
    (8, cut),
    (5, half_open),
    (5, answers_lost),
    (4, partition),
    (8, restart_in_the_pod),
    (4, twin),
    (4, new_pod),
    (10, hand_over),
    (4, leave),
    (8, ready),
    (6, expect),
    (10, setting),
    (4, forge),
    (1, restart_server),
    (1, roll_back),
    (4, end_lock_session),
    (2, exchange),
    (2, rotate),
];

/// What may go wrong in one schedule. Not everything does in each: what happens often hides what needs calm.
pub(super) struct Faults {
    weights: Vec<u32>,
}

// === impl Faults ===

impl Faults {
    pub(super) fn draw(simulation: &mut Simulation) -> Self {
        let mut net = simulation.net();
        let all = net.chance(30);
        let weights = FAULTS.iter().map(|(weight, _)| if all || net.chance(70) { *weight } else { 0 }).collect();
        net.pooler = match net.random.random_range(0..10) {
            0 => Pooler::Found,
            1 => Pooler::Unnoticed,
            _ => Pooler::None,
        };
        Self { weights }
    }

    pub(super) fn strike(&self, simulation: &mut Simulation) {
        let slots = simulation.slots.len();
        let (slot, number) = {
            let mut net = simulation.net();
            let sum: u32 = self.weights.iter().sum();
            (net.random.random_range(0..slots), net.random.random_range(0..sum.max(1)))
        };
        let mut left = number;
        let struck = self.weights.iter().position(|weight| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        if let Some(index) = struck {
            FAULTS[index].1(simulation, simulation.slots[slot].process);
        }
    }
}

// === to processes ===

fn freeze(simulation: &mut Simulation, n: usize) {
    let mut net = simulation.net();
    let long = net.millis(10..6000);
    net.note(|net| format!("{} is frozen for {long:?}", net.name(n)));
    let until = net.now + long;
    net.processes[n].frozen_until = until;
    net.after(long, |_| {});
}

fn restart_in_the_pod(simulation: &mut Simulation, n: usize) {
    replace(simulation, n, false);
}

/// A second process begins in the pod, and the first one is not dead yet.
fn twin(simulation: &mut Simulation, n: usize) {
    let Some(slot) = simulation.ending(n) else { return };
    simulation.start(slot, false);
    let pause = simulation.net().millis(0..6000);
    simulation.plan(pause, Plan::Kill(n));
}

fn new_pod(simulation: &mut Simulation, n: usize) {
    replace(simulation, n, true);
}

fn replace(simulation: &mut Simulation, n: usize, new_pod: bool) {
    if let Some(slot) = simulation.ending(n) {
        simulation.kill(n);
        let pause = simulation.net().millis(0..1500);
        simulation.plan(pause, Plan::Start { slot, new_pod });
    }
}

// === to lines ===

fn cut(simulation: &mut Simulation, n: usize) {
    let mut net = simulation.net();
    net.note(|net| format!("{} is cut off", net.name(n)));
    net.lines_of(n).into_iter().for_each(|id| net.end(id));
}

fn half_open(simulation: &mut Simulation, n: usize) {
    let mut net = simulation.net();
    net.note(|net| format!("{}: its lines are half open", net.name(n)));
    for id in net.lines_of(n) {
        net.lines[id].to_client = false;
        net.lines[id].to_server = false;
    }
}

/// What is sent still arrives: carried out, and the answer lost.
fn answers_lost(simulation: &mut Simulation, n: usize) {
    let mut net = simulation.net();
    net.note(|net| format!("{}: no answers any more", net.name(n)));
    for id in net.lines_of(n) {
        net.lines[id].to_client = false;
    }
}

fn partition(simulation: &mut Simulation, n: usize) {
    half_open(simulation, n);
    let mut net = simulation.net();
    let until = net.now + net.millis(10..6000);
    net.processes[n].away_until = until;
}

fn end_lock_session(simulation: &mut Simulation, _: usize) {
    of_lock(simulation, |net, id| net.end(id));
}

fn exchange(simulation: &mut Simulation, _: usize) {
    of_lock(simulation, Net::exchange);
}

fn of_lock(simulation: &mut Simulation, deed: fn(&mut Net, usize)) {
    let mut net = simulation.net();
    let is_lock = |line: &Line| !line.ended && matches!(line.kind, Kind::Lock { .. });
    let locks: Vec<_> = (0..net.lines.len()).filter(|id| is_lock(&net.lines[*id])).collect();
    if !locks.is_empty() {
        let index = net.random.random_range(0..locks.len());
        deed(&mut net, locks[index]);
    }
}

/// Somebody tells a process anything.
fn forge(simulation: &mut Simulation, n: usize) {
    let mut net = simulation.net();
    let payload = if net.chance(50) { net.name(n).to_owned() } else { "you lead".to_owned() };
    net.note(|net| format!("{} is told {payload:?}", net.name(n)));
    for id in net.lines_of(n) {
        net.tell(id, payload.clone());
    }
}

// === to the server ===

fn restart_server(simulation: &mut Simulation, _: usize) {
    simulation.net().restart(false);
}

fn roll_back(simulation: &mut Simulation, _: usize) {
    simulation.net().restart(true);
}

/// The controller writes other settings, also a shorter TTL.
fn setting(simulation: &mut Simulation, _: usize) {
    let mut net = simulation.net();
    let ttl = net.random.random_range(1..=3);
    let eligible = match net.random.random_range(0..4) {
        0 => Some(vec!["r".to_owned()]),
        1 => Some(vec!["s".to_owned(), "r".to_owned()]),
        _ => None,
    };
    let failover = if net.chance(60) { "Fast" } else { "TTL" };
    let fence = if net.chance(30) { 300 } else { 1000 };
    let fast = json!({"fenceMilliseconds": fence, "sessionTimeoutMilliseconds": 3 * fence});
    let json = json!({"leaseDurationSeconds": ttl, "failover": failover, "fast": fast});
    net.note(|_| format!("setting {eligible:?} {json}"));
    net.server.setting = Some(Settings { generation: 1, eligible, json });
}

// === orders ===

fn hand_over(simulation: &mut Simulation, n: usize) {
    let order = {
        let mut net = simulation.net();
        let only_to_successor = net.chance(50);
        HandOver { only_to_successor, ..HandOver::new(Reason::Manual) }
    };
    let (done, _) = oneshot::channel();
    simulation.say(n, Command::HandOver(order, done));
}

fn leave(simulation: &mut Simulation, n: usize) {
    let Some(slot) = simulation.ending(n) else { return };
    simulation.say(n, Command::Leave);
    let (done, _) = oneshot::channel();
    simulation.say(n, Command::HandOver(HandOver::new(Reason::PodDeleted), done));
    let (goodbye, death, birth) = {
        let mut net = simulation.net();
        let goodbye = net.millis(0..1000);
        (goodbye, goodbye + net.millis(0..2000), net.millis(0..3000))
    };
    simulation.plan(goodbye, Plan::ShutDown(n));
    simulation.plan(death, Plan::Kill(n));
    simulation.plan(birth, Plan::Start { slot, new_pod: true });
}

fn ready(simulation: &mut Simulation, n: usize) {
    let ready = simulation.net().chance(80);
    simulation.say(n, Command::Ready(ready));
}

fn expect(simulation: &mut Simulation, n: usize) {
    let expected = simulation.net().chance(70);
    simulation.say(n, Command::ExpectHandover(expected));
}

fn rotate(simulation: &mut Simulation, n: usize) {
    let token = simulation.net().random.random_range(0..u32::MAX);
    simulation.say(n, Command::Token(TokenDigest::of(&format!("1:{token}"))));
}

/// How often something happens.
pub(super) fn pause(simulation: &Simulation) -> Duration {
    simulation.net().millis(10..390)
}
