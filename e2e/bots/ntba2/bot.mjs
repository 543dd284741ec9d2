// An echo bot on node-telegram-bot-api 2: answers every text with the same text after HANDLER_MS.
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { Bot } from "node-telegram-bot-api";
import { run } from "node-telegram-bot-api/node";

const token = readFileSync(process.env.TELEGRAM_BOT_TOKEN_FILE, "utf8").trim();
const pause = Number(process.env.HANDLER_MS ?? 100);

const bot = new Bot(token, { apiRoot: process.env.TELEGRAM_API_ROOT });

bot.on("message", async (ctx) => {
  if (!ctx.message.text) return;
  await setTimeout(pause);
  await ctx.reply(ctx.message.text);
});

await run(bot); // stops at SIGINT and SIGTERM
