# An echo bot on Telethon. It speaks MTProto and gets its updates by itself, so it must run in one pod only:
# polling.adapter: Process starts it where the leader is.
import asyncio
import os
import signal

from telethon import TelegramClient, events
from telethon.sessions import StringSession


async def main():
    token = open(os.environ["TELEGRAM_BOT_TOKEN_FILE"]).read().strip()
    client = TelegramClient(StringSession(), int(os.environ["API_ID"]), os.environ["API_HASH"])
    if "DATA_CENTRE" in os.environ:  # another server than Telegram's: "NUMBER HOST PORT"
        number, host, port = os.environ["DATA_CENTRE"].split()
        client.session.set_dc(int(number), host, int(port))

    @client.on(events.NewMessage(incoming=True))
    async def echo(event):
        await asyncio.sleep(int(os.environ.get("HANDLER_MS", "100")) / 1000)
        await event.respond(event.raw_text)

    async def serve():
        await client.start(bot_token=token)
        await client.run_until_disconnected()

    bot = asyncio.create_task(serve())
    # Pollux ends it before another pod may begin: whoever ignores this is killed when the drain is over.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, bot.cancel)
    try:
        await bot
    except asyncio.CancelledError:
        pass
    finally:
        await client.disconnect()


asyncio.run(main())
