//! The bot of this pod, whichever way it takes turns (`polling.adapter`).
//!
//! | adapter | the bot | may lead when | is ended by a drain |
//! | --- | --- | --- | --- |
//! | `Proxy` | always runs and asks the gate for updates | it has a request open (R14) | no: it gets nothing more |
//! | `Process` | is a program that runs while this pod leads ([`crate::program`]) | its supervisor is there and it can be executed | yes |
//!
//! The gate serves calls (and `/leader`) with both. What the lease needs to know of a bot is a [`Status`] with both: with
//! `Process` the fields about the bot are the program's, and everything about Telegram stays the gate's.

use pollux_clock::BootInstant;
use pollux_gate::{Drained, Event, Gate, Leadership, Settings, Status};
use tokio::sync::{broadcast, watch};

use crate::program::protocol::{Report, State, instant};
use crate::program::{Program, Seen};

/// A bot; clones are the same one.
#[derive(Clone, Debug)]
pub struct Bot {
    gate: Gate,
    adapter: Adapter,
}

#[derive(Clone, Debug)]
enum Adapter {
    Proxy,
    Process { program: Program, status: watch::Receiver<Status>, events: broadcast::Sender<Event> },
}

// === impl Bot ===

impl Bot {
    /// A bot that polls through `gate`.
    pub fn proxy(gate: Gate) -> Self {
        Self { gate, adapter: Adapter::Proxy }
    }

    /// A bot that is `program`. Must be called within the runtime.
    pub fn process(gate: Gate, program: Program) -> Self {
        let now = merged(&gate.status().borrow(), &program.seen().borrow());
        let (sender, status) = watch::channel(now);
        let (events, _) = broadcast::channel(64);
        tokio::spawn(merge(gate.clone(), program.clone(), sender, events.clone()));
        Self { gate, adapter: Adapter::Process { program, status, events } }
    }

    /// The endpoint of its calls.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is known of it, and each change.
    pub fn status(&self) -> watch::Receiver<Status> {
        match &self.adapter {
            Adapter::Proxy => self.gate.status(),
            Adapter::Process { status, .. } => status.clone(),
        }
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match &self.adapter {
            Adapter::Proxy => self.gate.events(),
            Adapter::Process { events, .. } => events.subscribe(),
        }
    }

    /// Whether this replica leads; to be called after each renewal.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.gate.set_leadership(leadership);
        if let Adapter::Process { program, .. } = &self.adapter {
            program.set_leadership(leadership);
        }
    }

    /// See [`Gate::set_settings`].
    pub fn set_settings(&self, settings: Settings) {
        self.gate.set_settings(settings);
    }

    /// See [`Gate::cold_start`].
    pub fn cold_start(&self, epoch: i64) {
        self.gate.cold_start(epoch);
    }

    /// The bot finishes what it has, and takes nothing more until [`Bot::resume`] or a later epoch.
    pub async fn drain(&self) -> Drained {
        match &self.adapter {
            Adapter::Proxy => self.gate.drain().await,
            Adapter::Process { program, .. } => program.stop().await,
        }
    }

    /// Takes a [`Bot::drain`] back.
    pub fn resume(&self) {
        match &self.adapter {
            Adapter::Proxy => self.gate.resume(),
            Adapter::Process { program, .. } => program.resume(),
        }
    }

    /// The bot is gone, and its lease is about to be given away: what is left to be sure of. Returns whether that is taken
    /// back by [`Bot::resume`], if the lease is kept.
    pub async fn abandon(&self) -> bool {
        match &self.adapter {
            // A gate without a bot polls nothing.
            Adapter::Proxy => false,
            // Its container may be started again at this moment.
            Adapter::Process { program, .. } => {
                program.stop().await;
                true
            }
        }
    }

    /// See [`Gate::finished`].
    pub async fn finished(&self) {
        self.gate.finished().await;
    }

    /// See [`Gate::terminate`].
    pub fn terminate(&self) {
        self.gate.terminate();
    }

    /// See [`Gate::shutdown`].
    pub async fn shutdown(&self) {
        self.gate.shutdown().await;
    }

    /// Whether this bot could take over at once.
    ///
    /// # Errors
    /// Why it could not.
    pub fn ready(&self) -> Result<(), String> {
        match &self.adapter {
            Adapter::Proxy if self.gate.status().borrow().bot_ready => Ok(()),
            Adapter::Proxy => {
                Err("the bot has not asked for updates since it started: point its API root at TELEGRAM_API_ROOT"
                    .to_owned())
            }
            Adapter::Process { program, .. } => program.ready(),
        }
    }
}

/// Carries until the gate or the program is gone.
async fn merge(gate: Gate, program: Program, status: watch::Sender<Status>, events: broadcast::Sender<Event>) {
    let (mut of_gate, mut of_program, mut happened) = (gate.status(), program.seen(), gate.events());
    let mut started = None;
    loop {
        let seen = of_program.borrow_and_update().clone();
        let now = merged(&of_gate.borrow_and_update(), &seen);
        status.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if let Some((epoch, at)) = beginning(seen.report.as_ref()).filter(|(epoch, _)| started != Some(*epoch)) {
            started = Some(epoch);
            // Nobody has to listen.
            let _ = events.send(Event::FirstPoll { epoch, at });
        }
        tokio::select! {
            changed = of_gate.changed() => if changed.is_err() { return },
            changed = of_program.changed() => if changed.is_err() { return },
            event = happened.recv() => {
                if let Ok(event) = event && !is_of_a_poller(&event) {
                    let _ = events.send(event);
                }
            }
        }
    }
}

/// The bot's part of the status is the program's.
fn merged(gate: &Status, seen: &Seen) -> Status {
    let able = seen.report.as_ref().is_some_and(|report| report.not_executable.is_none());
    Status {
        bot_ready: able,
        bot_polling: able,
        bot_alive: seen.report.is_some() || !seen.dead,
        bot_missing: seen.report.is_none(),
        deaf: false,
        ..gate.clone()
    }
}

/// When the program began to serve, and under which epoch. One that went on under a new epoch serves from now on.
fn beginning(report: Option<&Report>) -> Option<(i64, BootInstant)> {
    let report = report.filter(|report| report.state == State::Running && report.epoch > 0)?;
    Some((report.epoch, instant(report.started_nanoseconds?)))
}

/// Such events are about a bot that asks the gate for updates.
fn is_of_a_poller(event: &Event) -> bool {
    matches!(event, Event::FirstPoll { .. } | Event::BotGone | Event::BotBack | Event::BotDeaf)
}
