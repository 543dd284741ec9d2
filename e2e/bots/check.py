#!/usr/bin/env python3
"""Runs every bot against the emulator of the Bot API, without a cluster and without a gate.

usage: e2e/bots/check.py EMULATOR [NAME...]               as programs of this machine (e2e/bots/install.sh)
       e2e/bots/check.py --images EMULATOR [LIBRARY...]   out of their images (e2e/images/build.sh bots), as root

EMULATOR is the binary pollux-botapi; a NAME is a set-up of bots.json. Images are run as in a restricted pod: uid 12345, no
privileges, read-only root without a writable directory, process 1 of its own pid namespace. Trials:

    quiet   20 updates in 4 chats, 100 ms handler: each must be answered once; SIGTERM while it polls: it must end as
            bots.json says: `stops` is exit code 0, `dies` is what becomes of a program that does not handle the signal
    busy    1.5 s handler: one update must be confirmed before or after it is answered, as bots.json says (`acks`). Then three at
            once, SIGTERM half a second after they were delivered: what became of them
    first   (programs only, as root) SIGTERM for an idle bot that is process 1, as in a container, where the kernel ignores a
            signal that the program does not handle: how it ends, or that it is still there after 12 s

What becomes of the three, and of process 1, is no judgement; it is what README.md's table says about SIGTERM. Needed after a library's version is changed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETUPS = {bot["name"]: bot for bot in json.loads((HERE / "bots.json").read_text())["bots"]}
IMAGES = ["ptb", "aiogram", "grammy", "telegraf", "teloxide"]
CACHE = Path(os.environ.get("POLLUX_CACHE", Path.home() / ".cache/pollux"))
UID = 12345
# Exit codes after SIGTERM. 143 is the Java machine's own way to say "killed by signal 15".
ENDS = {"stops": [0], "dies": [-signal.SIGTERM, 143]}
# In a mount namespace of its own: the image's root read-only, with the /dev and /proc that a container has.
ENTER = f"""
root=$0 folder=$1; shift
mount --make-rprivate / && mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
mount --rbind /dev "$root/dev" &&
exec unshare --pid --fork --kill-child --root="$root" --wd="$folder" --mount-proc --setgid={UID} --setuid={UID} -- "$@"
"""


class Failed(Exception):
    """A bot did not do what it must."""


class Emulator:
    def __init__(self, binary):
        self.api, self.admin = free_port(), free_port()
        self.process = subprocess.Popen(
            [binary, "--listen", f"127.0.0.1:{self.api}", "--admin", f"127.0.0.1:{self.admin}"],
            stdout=subprocess.DEVNULL,
        )
        until("the emulator listens", lambda: connects(self.admin) and connects(self.api))

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}{path}", data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def updates(self, token):
        return self.call(f"/ledger?token={token}")["updates"]


class Bot:
    """A started bot: `outer` is the process that we wait for, `pid` the one that gets the signal."""

    def pid(self):
        return self.outer.pid

    def terminate(self, limit=60):
        """Sends SIGTERM; returns the exit code and the seconds that the bot took, of `limit` at most."""
        begin = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        try:
            code = self.outer.wait(limit)
        except subprocess.TimeoutExpired:
            code = "still there"
        return code, time.monotonic() - begin

    def kill(self):
        if self.outer.poll() is None:
            self.outer.kill()
            self.outer.wait()


class Program(Bot):
    """A set-up of bots.json as a process of this machine."""

    def __init__(self, setup, folder):
        self.setup, self.token_file = setup, folder / f"{setup['name']}.token"
        command = [HERE / "install.sh", "--print-dir", setup["name"]]
        self.folder = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def start(self, token, emulator, handler_ms, log):
        self.token_file.write_text(token + "\n")
        environment = {
            "PATH": os.environ["PATH"],
            "TELEGRAM_BOT_TOKEN_FILE": str(self.token_file),
            "TELEGRAM_API_ROOT": f"http://127.0.0.1:{emulator.api}",
            "HANDLER_MS": str(handler_ms),
        }
        self.outer = subprocess.Popen(
            self.command(), cwd=self.folder, env=environment | self.setup["env"], stdout=log, stderr=log
        )

    def command(self):
        return self.setup["run"]

    def check(self):
        pass


class First(Program):
    """The same as process 1 of a pid namespace."""

    def command(self):
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--", *self.setup["run"]]

    def pid(self):
        return only_child(self.outer)


class Image(Bot):
    """An image's root and its entry point, started as a pod would."""

    def __init__(self, setup, folder):
        self.setup, library = setup, setup["name"]
        self.root = Path(tempfile.mkdtemp(prefix=f"{library}-", dir=folder))
        self.root.chmod(0o755)
        with tarfile.open(CACHE / f"images/e2e-bot-{library}.tar") as archive:
            manifest = json.load(archive.extractfile("manifest.json"))[0]
            self.config = json.load(archive.extractfile(manifest["Config"]))["config"]
            for layer in manifest["Layers"]:
                with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                    files.extraction_filter = lambda member, path: member  # links in a root are absolute
                    files.extractall(self.root)
        for mount in ["dev", "proc", "run/pollux/token"]:
            (self.root / mount).mkdir(parents=True, exist_ok=True)

    def start(self, token, emulator, handler_ms, log):
        (self.root / "run/pollux/token/token").write_text(token + "\n")
        environment = dict(entry.split("=", 1) for entry in self.config.get("Env") or [])
        environment.setdefault("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        environment |= {
            "TELEGRAM_BOT_TOKEN_FILE": "/run/pollux/token/token",
            "TELEGRAM_API_ROOT": f"http://127.0.0.1:{emulator.api}",
            "HANDLER_MS": str(handler_ms),
        }
        variables = [f"{name}={value}" for name, value in environment.items()]
        command = self.config["Entrypoint"] + (self.config.get("Cmd") or [])
        self.outer = subprocess.Popen(
            ["unshare", "--mount", "env", "-i", *variables, "/bin/sh", "-c", ENTER]
            + [self.root, self.config.get("WorkingDir") or "/", *command],
            stdout=log,
            stderr=log,
        )

    def pid(self):
        return only_child(self.outer)

    def check(self):
        if f"Uid:\t{UID}\t{UID}" not in Path(f"/proc/{self.pid()}/status").read_text():
            raise Failed("it does not run as the uid that it was given")


def only_child(process):
    """The bot's process, once it has been started in its own namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connects(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"after {seconds} s it is not true that {what}")
        time.sleep(0.02)


def trial(emulator, bot, token, handler_ms, log, body):
    """Starts the bot, waits for its first poll, and calls body(seconds that this took)."""
    emulator.call("/bots", {"token": token, "username": f"check_{token.split(':')[0]}_bot"})
    begin = time.monotonic()
    bot.start(token, emulator, handler_ms, log)
    try:
        polling = lambda: emulator.call(f"/polls?token={token}")  # noqa: E731
        until("the bot polls", lambda: bot.outer.poll() is not None or polling())
        if bot.outer.poll() is not None:
            raise Failed(f"the bot ended with {bot.outer.returncode}")
        return body(time.monotonic() - begin)
    finally:
        bot.kill()


def quiet(emulator, bot, token, began):
    for chat in (1, 2, 3, 4):
        emulator.call("/push", {"token": token, "count": 5, "chat": chat})
    until("20 updates are answered", lambda: all(u["replies"] for u in emulator.updates(token)))
    bot.check()
    status = Path(f"/proc/{bot.pid()}/status").read_text()
    memory = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    code, seconds = bot.terminate()
    replies = [len(u["replies"]) for u in emulator.updates(token)]
    if replies != [1] * 20:
        raise Failed(f"replies to the 20 updates: {replies}")
    if code not in ENDS[bot.setup["sigterm"]]:
        raise Failed(f"exit code {code} after SIGTERM, but bots.json says: {bot.setup['sigterm']}")
    return f"polls {began:.1f} s after its start, {memory} MiB; SIGTERM: exit {code} in {seconds:.1f} s"


def busy(emulator, bot, token, _):
    # One alone before: it shows when the library acknowledges, and a Java machine reads its first update for half a second.
    emulator.call("/push", {"token": token, "count": 1, "chat": 9})
    until("the first update is answered", lambda: emulator.updates(token)[0]["replies"])
    alone = emulator.updates(token)[0]
    acks = "first" if alone["removed"] and alone["removed"]["at_ms"] < alone["replies"][0]["at_ms"] else "after"
    if acks != bot.setup["acks"]:
        raise Failed(f"it acknowledges {acks}, but bots.json says: {bot.setup['acks']}")
    emulator.call("/push", {"token": token, "count": 3, "chat": 1})
    until("the three are delivered", lambda: all(u["deliveries"] for u in emulator.updates(token)))
    time.sleep(0.5)  # in the middle of the first handler; not something that one could wait for
    code, seconds = bot.terminate()
    updates = emulator.updates(token)[1:]
    answered = sum(1 for u in updates if u["replies"])
    lost = sum(1 for u in updates if u["removed"] and not u["replies"])
    again = sum(1 for u in updates if u["replies"] and not u["removed"])
    return f"exit {code} in {seconds:.1f} s; {answered} of 3 answered, {lost} lost, {again} answered but not confirmed"


def first(emulator, bot, token, _):
    code, seconds = bot.terminate(12)
    return "still there" if code == "still there" else f"exit {code} in {seconds:.1f} s"


def main():
    arguments = sys.argv[1:]
    images = arguments[:1] == ["--images"]
    arguments = arguments[images:]
    if not arguments or arguments[0].startswith("-"):
        sys.exit(__doc__)
    kind, every = (Image, IMAGES) if images else (Program, list(SETUPS))
    trials = [("quiet", kind, 100, quiet), ("busy", kind, 1500, busy)]
    if not images and os.geteuid() == 0:
        trials.append(("first", First, 100, first))
    folder = Path(tempfile.mkdtemp(prefix="pollux-bots-"))
    folder.chmod(0o755)
    emulator = Emulator(arguments[0])
    failed = 0
    try:
        for number, name in enumerate(arguments[1:] or every):
            for trial_number, (trial_name, form, handler_ms, body) in enumerate(trials):
                bot = form(SETUPS[name], folder)
                token = f"{1000 + number}{trial_number}:check"
                with open(folder / f"{name}-{trial_name}.log", "w+") as log:
                    try:
                        result = trial(emulator, bot, token, handler_ms, log, lambda began: body(emulator, bot, token, began))
                    except Failed as error:
                        failed += 1
                        log.seek(0)
                        result = f"FAILED: {error}\n" + "".join(log.readlines()[-20:])
                print(f"{name:24} {trial_name:6} {result}", flush=True)
    finally:
        emulator.process.terminate()
        emulator.process.wait()
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
