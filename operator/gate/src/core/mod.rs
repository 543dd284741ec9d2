//! The rules of the gate as a state machine without I/O.
