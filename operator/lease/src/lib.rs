//! pollux-lease
