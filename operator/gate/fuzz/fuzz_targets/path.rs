//! Two readers of paths agree, and what goes upstream is what the bot wrote.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pollux_botapi::Reading;
use pollux_gate::fuzzing;

fuzz_target!(|path: &str| {
    let ours = fuzzing::path(path);
    if let Some(ours) = &ours {
        assert!(path.ends_with(&ours.rest), "{ours:?}");
        let rest = percent_encoding::percent_decode_str(&ours.rest).collect::<Vec<u8>>();
        assert!(rest.is_empty() || rest[0] == b'/', "{ours:?}");
        assert!(!ours.token.contains('/'), "{ours:?}");
    }
    if let Some((token, method)) = Reading::target(path) {
        let ours = ours.expect("a path of the Bot API");
        assert!(!ours.file, "{ours:?}");
        assert_eq!(ours.token, token);
        assert_eq!(ours.method, method.trim_start_matches('/').to_ascii_lowercase());
    }
});
