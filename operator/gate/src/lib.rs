//! pollux-gate
