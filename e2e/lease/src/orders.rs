//! What a started process is told on its standard input.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The lines of the standard input; it ends with it.
pub(crate) fn orders() -> UnboundedReceiver<String> {
    let (told, orders) = unbounded_channel();
    // A thread: it may wait for ever, and need not be waited for.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if told.send(line).is_err() {
                return;
            }
        }
    });
    orders
}
