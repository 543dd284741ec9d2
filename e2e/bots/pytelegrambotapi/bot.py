"""An echo bot on pyTelegramBotAPI: answers every text with the same text after HANDLER_MS."""

import os
import time
from pathlib import Path

import telebot
from telebot import apihelper

TOKEN = Path(os.environ["TELEGRAM_BOT_TOKEN_FILE"]).read_text().strip()
PAUSE = int(os.environ.get("HANDLER_MS", "100")) / 1000

apihelper.API_URL = os.environ["TELEGRAM_API_ROOT"] + "/bot{0}/{1}"
bot = telebot.TeleBot(TOKEN)


@bot.message_handler(content_types=["text"])
def echo(message: telebot.types.Message) -> None:
    time.sleep(PAUSE)
    bot.send_message(message.chat.id, message.text)


if os.environ.get("VARIANT") == "polling":
    bot.polling()  # ends at the first error
else:
    bot.infinity_polling()
