//! An echo bot on teloxide: answers every text with the same text after HANDLER_MS.

use std::{env, error::Error, fs, time::Duration};

use teloxide::prelude::*;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let token = fs::read_to_string(env::var("TELEGRAM_BOT_TOKEN_FILE")?)?;
    let bot = Bot::new(token.trim());
    let bot = bot.set_api_url(env::var("TELEGRAM_API_ROOT")?.parse()?);

    let mut dispatcher = Dispatcher::builder(bot, Update::filter_message().endpoint(echo)).build();

    // teloxide's own handler knows SIGINT only; Kubernetes sends SIGTERM, which a process that is PID 1 ignores by default.
    let shutdown = dispatcher.shutdown_token();
    let mut sigterm = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        sigterm.recv().await;
        if let Ok(stopped) = shutdown.shutdown() {
            stopped.await;
        }
    });

    dispatcher.dispatch().await;
    Ok(())
}

async fn echo(bot: Bot, message: Message) -> ResponseResult<()> {
    let pause = env::var("HANDLER_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(100);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    if let Some(text) = message.text() {
        bot.send_message(message.chat.id, text).await?;
    }
    Ok(())
}
