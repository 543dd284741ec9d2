//! pollux-clock
