//! The library's face: an emulator in this process, on ephemeral ports of loopback.

use std::{io, net::IpAddr, time::Duration};

use crate::model::{
    At, BotVerdict, Error, Fault, Ledger, Load, Mark, Options, PollRecord, Push, RequestRecord, Settled, Verdict,
};

/// A running emulator. Clones are handles to the same one; it stops with [`Emulator::shutdown`] or its runtime.
#[derive(Clone)]
pub struct Emulator {}

#[allow(unused_variables, clippy::unimplemented)]
impl Emulator {
    /// Starts one. Returns when both ports listen.
    pub async fn start(options: Options) -> io::Result<Self> {
        unimplemented!()
    }

    /// Base URL of the Bot API, `http://127.0.0.1:port` (`https://` with TLS), without a slash at its end.
    pub fn url(&self) -> String {
        unimplemented!()
    }

    /// Base URL of the admin port.
    pub fn admin_url(&self) -> String {
        unimplemented!()
    }

    /// A further port of the same Bot API, whose requests belong to the lane `name`: how pollers are told apart when all of them
    /// come from one address. Returns its base URL.
    pub async fn lane(&self, name: &str) -> io::Result<String> {
        unimplemented!()
    }

    /// Names the lane of an IP address (in a cluster: the pod's name).
    pub fn name_lane(&self, ip: IpAddr, name: &str) {
        unimplemented!()
    }

    /// Adds a bot; nothing changes when it is there already.
    pub fn add_bot(&self, token: &str, username: &str) -> Result<(), Error> {
        unimplemented!()
    }

    /// Puts updates into a bot's queue and returns their ids.
    pub fn push(&self, token: &str, push: Push) -> Result<Vec<i32>, Error> {
        unimplemented!()
    }

    /// Starts a load on a bot, in place of the one that runs.
    pub fn load(&self, token: &str, load: Load) -> Result<(), Error> {
        unimplemented!()
    }

    /// Whether a load runs.
    pub fn loading(&self, token: &str) -> bool {
        unimplemented!()
    }

    /// Ends a bot's load.
    pub fn stop_load(&self, token: &str) {
        unimplemented!()
    }

    /// Adds a fault; faults strike in the order in which they were added.
    pub fn fault(&self, token: &str, fault: Fault) -> Result<(), Error> {
        unimplemented!()
    }

    /// Removes all faults of a bot. Requests that hang are let go (reset).
    pub fn clear_faults(&self, token: &str) {
        unimplemented!()
    }

    /// Puts a mark on the timeline.
    pub fn mark(&self, mark: Mark) {
        unimplemented!()
    }

    /// Now, on the emulator's clock.
    pub fn now(&self) -> At {
        unimplemented!()
    }

    /// Waits until `done` holds, looking after every change of state, at most `limit`. Returns whether it holds.
    pub async fn until(&self, limit: Duration, done: impl FnMut(&Self) -> bool) -> bool {
        unimplemented!()
    }

    /// Waits until all updates that were pushed are confirmed and answered, at most `limit`, or until nothing moved for `quiet`.
    /// Without a token: for all bots.
    pub async fn settled(&self, token: Option<&str>, limit: Duration, quiet: Option<Duration>) -> Settled {
        unimplemented!()
    }

    /// The verdict about all bots; `window` is the half width around a handover (5 s is usual).
    pub fn verdict(&self, window: Duration) -> Verdict {
        unimplemented!()
    }

    /// The verdict about one bot.
    pub fn bot_verdict(&self, token: &str, window: Duration) -> Result<BotVerdict, Error> {
        unimplemented!()
    }

    /// The life of every update of a bot.
    pub fn ledger(&self, token: &str) -> Result<Ledger, Error> {
        unimplemented!()
    }

    /// Every getUpdates request to a bot.
    pub fn polls(&self, token: &str) -> Result<Vec<PollRecord>, Error> {
        unimplemented!()
    }

    /// Every other request to a bot.
    pub fn requests(&self, token: &str) -> Result<Vec<RequestRecord>, Error> {
        unimplemented!()
    }

    /// Stops: closes the ports and every connection.
    pub fn shutdown(&self) {
        unimplemented!()
    }
}
