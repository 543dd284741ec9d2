"""An echo bot on aiogram: answers every text with the same text after HANDLER_MS."""

import asyncio
import os
from pathlib import Path

from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message

TOKEN = Path(os.environ["TELEGRAM_BOT_TOKEN_FILE"]).read_text().strip()
PAUSE = int(os.environ.get("HANDLER_MS", "100")) / 1000

dp = Dispatcher()


@dp.message(F.text)
async def echo(message: Message) -> None:
    await asyncio.sleep(PAUSE)
    await message.answer(message.text)


async def main() -> None:
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_ROOT"]))
    bot = Bot(TOKEN, session=session)
    await dp.start_polling(bot)  # stops at SIGINT and SIGTERM


asyncio.run(main())
