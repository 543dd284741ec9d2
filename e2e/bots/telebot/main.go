// An echo bot on telebot: answers every text with the same text after HANDLER_MS.
package main

import (
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	tele "gopkg.in/telebot.v4"
)

func main() {
	token, err := os.ReadFile(os.Getenv("TELEGRAM_BOT_TOKEN_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	pause, err := strconv.Atoi(os.Getenv("HANDLER_MS"))
	if err != nil {
		pause = 100
	}

	bot, err := tele.NewBot(tele.Settings{
		URL:    os.Getenv("TELEGRAM_API_ROOT"),
		Token:  strings.TrimSpace(string(token)),
		Poller: &tele.LongPoller{Timeout: 10 * time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}

	bot.Handle(tele.OnText, func(c tele.Context) error {
		time.Sleep(time.Duration(pause) * time.Millisecond)
		return c.Send(c.Text())
	})

	bot.Start()
}
