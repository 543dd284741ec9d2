"""An echo bot on python-telegram-bot: answers every text with the same text after HANDLER_MS."""

import asyncio
import os
from pathlib import Path

from telegram import Update
from telegram.ext import ApplicationBuilder, ContextTypes, MessageHandler, filters

TOKEN = Path(os.environ["TELEGRAM_BOT_TOKEN_FILE"]).read_text().strip()
PAUSE = int(os.environ.get("HANDLER_MS", "100")) / 1000


async def echo(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    await asyncio.sleep(PAUSE)
    await context.bot.send_message(chat_id=update.effective_chat.id, text=update.message.text)


application = (
    ApplicationBuilder()
    .token(TOKEN)
    .base_url(os.environ["TELEGRAM_API_ROOT"] + "/bot")
    .concurrent_updates(os.environ.get("VARIANT") == "concurrent")
    .build()
)
application.add_handler(MessageHandler(filters.TEXT & ~filters.COMMAND, echo))
application.run_polling()  # stops at SIGINT, SIGTERM and SIGABRT
