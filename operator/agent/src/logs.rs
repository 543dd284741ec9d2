//! Logs: JSON lines in a cluster, readable ones at a terminal; to standard error either way.
//!
//! A bare level (`debug`) speaks of Pollux' own crates only; libraries stay at `warn` unless a directive names them.
//! They were not written with tokens in mind: a library that traces requests or statements would print what we never do.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::Logging;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Crates whose code is ours.
const OURS: [&str; 4] = ["pollux_agent", "pollux_clock", "pollux_gate", "pollux_lease"];

/// Reads directives; a directive without a target is given to our own crates.
///
/// # Errors
/// If `tracing` does not understand them.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let mut all = vec!["warn".to_owned()];
    for directive in directives.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        if directive.contains(['=', ':', '[']) || directive.starts_with("pollux") {
            all.push(directive.to_owned());
        } else {
            // A word that is no level would silently be taken for the name of a crate.
            let level: tracing::level_filters::LevelFilter = match directive.parse() {
                Ok(level) => level,
                Err(_) => return EnvFilter::builder().parse(format!("pollux={directive}")),
            };
            all.extend(OURS.iter().map(|ours| format!("{ours}={level}")));
        }
    }
    EnvFilter::builder().parse(all.join(","))
}

/// Starts logging for this process.
pub fn start(logging: &Logging) {
    let Ok(filter) = filter(&logging.filter) else {
        return;
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    let terminal = std::io::stderr().is_terminal();
    let json = match logging.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    // A second call (tests in one process) keeps the first one's choice.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_does_not_make_libraries_talk() {
        let filter = filter("trace").unwrap().to_string();
        assert!(filter.contains("pollux_gate=trace"), "{filter}");
        assert!(filter.split(',').any(|d| d == "warn"), "{filter}");
        assert!(!filter.split(',').any(|d| d == "trace"), "{filter}");
    }

    #[test]
    fn a_named_library_talks_when_it_is_asked_for_by_name() {
        let filter = filter("info,rustls=debug").unwrap().to_string();
        assert!(filter.contains("rustls=debug") && filter.contains("pollux_agent=info"), "{filter}");
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        assert!(filter("inof").is_err());
        assert!(filter("pollux_gate=loud").is_err());
    }
}
