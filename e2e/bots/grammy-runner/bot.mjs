// An echo bot on grammY's runner: answers every text with the same text after HANDLER_MS.
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { run } from "@grammyjs/runner";
import { Bot } from "grammy";

const token = readFileSync(process.env.TELEGRAM_BOT_TOKEN_FILE, "utf8").trim();
const pause = Number(process.env.HANDLER_MS ?? 100);

const bot = new Bot(token, { client: { apiRoot: process.env.TELEGRAM_API_ROOT } });

bot.on("message:text", async (ctx) => {
  await setTimeout(pause);
  await ctx.reply(ctx.message.text);
});

const runner = run(bot);

const stopRunner = () => runner.isRunning() && runner.stop();
process.once("SIGINT", stopRunner);
process.once("SIGTERM", stopRunner);
