// An echo bot on GramIO: answers every text with the same text after HANDLER_MS.
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { Bot } from "gramio";

const token = readFileSync(process.env.TELEGRAM_BOT_TOKEN_FILE, "utf8").trim();
const pause = Number(process.env.HANDLER_MS ?? 100);

const bot = new Bot(token, { api: { baseURL: `${process.env.TELEGRAM_API_ROOT}/bot` } });

bot.on("message", async (context) => {
  if (!context.text) return;
  await setTimeout(pause);
  await context.send(context.text);
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, async () => {
    await bot.stop();
    process.exit(0);
  });
}

await bot.start();
