//! pollux-botapi
