// An echo bot on node-telegram-bot-api 1: answers every text with the same text after HANDLER_MS.
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import TelegramBot from "node-telegram-bot-api";

const token = readFileSync(process.env.TELEGRAM_BOT_TOKEN_FILE, "utf8").trim();
const pause = Number(process.env.HANDLER_MS ?? 100);

const bot = new TelegramBot(token, { polling: true, baseApiUrl: process.env.TELEGRAM_API_ROOT });

bot.on("text", async (msg) => {
  await setTimeout(pause);
  await bot.sendMessage(msg.chat.id, msg.text);
});
