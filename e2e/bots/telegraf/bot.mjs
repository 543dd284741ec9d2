// An echo bot on telegraf: answers every text with the same text after HANDLER_MS.
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { Telegraf } from "telegraf";
import { message } from "telegraf/filters";

const token = readFileSync(process.env.TELEGRAM_BOT_TOKEN_FILE, "utf8").trim();
const pause = Number(process.env.HANDLER_MS ?? 100);

const bot = new Telegraf(token, { telegram: { apiRoot: process.env.TELEGRAM_API_ROOT } });

bot.on(message("text"), async (ctx) => {
  await setTimeout(pause);
  await ctx.reply(ctx.message.text);
});

process.once("SIGINT", () => bot.stop("SIGINT"));
process.once("SIGTERM", () => bot.stop("SIGTERM"));

await bot.launch();
