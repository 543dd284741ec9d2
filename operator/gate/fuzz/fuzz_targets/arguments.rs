//! Two readers of one specification, the gate's and the emulator's, agree on every input.
//!
//! The first byte of an input chooses the kind of body and its coding, what follows until a line's end is the query string,
//! the rest is the body.

#![no_main]

use bytes::Bytes;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use pollux_botapi::Reading;
use pollux_gate::fuzzing;

const KINDS: [&str; 4] =
    ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"];
const NAMES: [&str; 8] =
    ["offset", "limit", "timeout", "allowed_updates", "method", "content", "url", "drop_pending_updates"];

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let kind = KINDS[usize::from(choice & 3)];
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let query = String::from_utf8_lossy(&rest[..end]);
    let body = Bytes::copy_from_slice(rest.get(end + 1..).unwrap_or_default());
    if choice & 4 != 0 {
        // Only that nothing breaks.
        block_on(fuzzing::arguments(Some(&query), kind, "gzip", body));
        return;
    }
    let ours = block_on(fuzzing::arguments(Some(&query), kind, "", body.clone())).expect("not refused");
    // The server refuses a form that breaks off; the gate makes the best of it.
    let Some(theirs) = block_on(Reading::of(Some(&query), kind, body)) else { return };
    for name in NAMES {
        assert_eq!(ours.get(name), theirs.get(name), "{name}");
    }
    let poll = ours.poll();
    // Where the server counts modulo 2^32, the emulator stops.
    if ours.get("offset").trim_start_matches(['-', '0']).len() < 10 {
        assert_eq!(poll.offset, theirs.int32("offset").map(i64::from));
    }
    assert!(poll.limit.is_none_or(|limit| (1..=100).contains(&limit)), "{poll:?}");
    assert!(poll.timeout.is_none_or(|timeout| (0..=50).contains(&timeout)), "{poll:?}");
});
