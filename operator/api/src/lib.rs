//! The `TelegramBot` resource: its types, its rules, and every word that other programs may match on.
//!
//! Within a version changes are additive. Condition types and reasons, event reasons, labels and annotation keys are API:
//! they live in [`words`] and [`names`] and are spelled nowhere else. Nothing here does I/O.
//!
//! | module | what it fixes |
//! | --- | --- |
//! | [`spec`] | what a user writes |
//! | [`status`] | what the controller answers |
//! | [`words`] | conditions, reasons, phases, events |
//! | [`names`] | labels, images, container and volume names, paths, environment |
//! | [`manifest`] | the CustomResourceDefinition as YAML; the one place that reads and writes YAML |

pub mod manifest;
pub mod names;
mod schema;
pub mod spec;
pub mod status;
pub mod words;

#[cfg(test)]
mod cel_test;
#[cfg(test)]
mod crd_test;

pub use spec::{TelegramBot, TelegramBotSpec};
pub use status::TelegramBotStatus;
