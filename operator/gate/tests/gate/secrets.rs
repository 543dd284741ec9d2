//! The token is nowhere but in the file and on the wire to Telegram.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollux_botapi::{Fault, FaultKind};
use pollux_gate::Settings;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Rig, TOKEN, emulator, push};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_token_is_in_no_log_line_at_any_level() {
    let log = Log::default();
    // One thread runs this test and every task of the gate, so the subscriber of the thread sees all of it.
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(log.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let emulator = emulator().await;
    let settings = Settings {
        quiet: Some(Duration::from_millis(50)),
        get_me_patience: Duration::from_millis(300),
        token_check: Duration::from_millis(10),
        ..Settings::default()
    };
    let rig = Rig::with(&emulator.url(), settings).await;
    rig.until("known", |status| status.bot.is_some()).await;
    rig.lead(1);
    push(&emulator, 1);
    for method in ["getUpdates", "sendMessage", "getMe"] {
        for kind in [FaultKind::Reset, FaultKind::Html(502), FaultKind::Status(401)] {
            emulator.fault(TOKEN, Fault::new(method, kind)).unwrap();
        }
    }
    let mut bot = rig.bot().await;
    bot.updates(0, 3).await;
    for _ in 0..4 {
        bot.call("sendMessage", "chat_id=1&text=hi").await;
        bot.call("getMe", "").await;
    }
    bot.get("/bot1:another-token/getUpdates").await;
    std::fs::write(rig.token_file(), "4242:broken token").unwrap();
    rig.gate.drain().await;
    println!("{:?}", rig.gate);
    rig.gate.shutdown().await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("poll refused") && text.contains("drained"), "it logs something: {text}");
    for secret in ["test-secret", "another-token", "broken token"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
    assert!(!format!("{:?} {:?}", rig.gate, rig.gate.token()).contains("test-secret"));
}
