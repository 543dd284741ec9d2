//! Pods without Kubernetes: the agent and the bot of a replica as processes, started and ended in the order in which a kubelet
//! does it. What goes wrong on the way is the test's own fault, so it panics.

mod agent;
mod bot;

pub use agent::{Agent, Pod, fresh_ip, in_proc};
pub use bot::{BotProcess, Program};
