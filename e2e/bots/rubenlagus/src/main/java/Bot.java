import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import org.telegram.telegrambots.client.okhttp.OkHttpTelegramClient;
import org.telegram.telegrambots.longpolling.TelegramBotsLongPollingApplication;
import org.telegram.telegrambots.longpolling.util.DefaultGetUpdatesGenerator;
import org.telegram.telegrambots.longpolling.util.LongPollingSingleThreadUpdateConsumer;
import org.telegram.telegrambots.meta.TelegramUrl;
import org.telegram.telegrambots.meta.api.methods.send.SendMessage;
import org.telegram.telegrambots.meta.api.objects.Update;
import org.telegram.telegrambots.meta.generics.TelegramClient;

/** An echo bot on TelegramBots: answers every text with the same text after HANDLER_MS. */
public class Bot implements LongPollingSingleThreadUpdateConsumer {
    private static final long PAUSE = Long.parseLong(System.getenv().getOrDefault("HANDLER_MS", "100"));

    private final TelegramClient client;

    Bot(TelegramClient client) {
        this.client = client;
    }

    @Override
    public void consume(Update update) {
        if (!update.hasMessage() || !update.getMessage().hasText()) {
            return;
        }
        try {
            Thread.sleep(PAUSE);
            client.execute(new SendMessage(update.getMessage().getChatId().toString(), update.getMessage().getText()));
        } catch (Exception e) {
            e.printStackTrace();
        }
    }

    public static void main(String[] args) throws Exception {
        String token = Files.readString(Path.of(System.getenv("TELEGRAM_BOT_TOKEN_FILE"))).strip();
        URI root = URI.create(System.getenv("TELEGRAM_API_ROOT"));
        TelegramUrl url = TelegramUrl.builder().schema(root.getScheme()).host(root.getHost()).port(root.getPort()).build();

        try (TelegramBotsLongPollingApplication application = new TelegramBotsLongPollingApplication()) {
            Bot bot = new Bot(new OkHttpTelegramClient(token, url));
            application.registerBot(token, () -> url, new DefaultGetUpdatesGenerator(), bot);
            Thread.currentThread().join();
        }
    }
}
