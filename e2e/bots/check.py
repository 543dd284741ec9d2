#!/usr/bin/env python3
"""Runs every bot's image against the emulator of the Bot API, without a cluster and without a gate.

usage: e2e/bots/check.py EMULATOR [LIBRARY...]       (as root; EMULATOR is the binary pollux-botapi)

Each bot runs out of its archive (e2e/images/build.sh bots) as in a restricted pod: uid 12345, no privileges, read-only root
without a writable directory, process 1 of its own pid namespace. Two trials each:

    quiet   three updates, 100 ms handler: each must be answered once; SIGTERM while it polls: it must end with 0
    busy    three updates at once, 1.5 s handler, SIGTERM half a second after they were delivered: what became of them

The second one is no judgement; it is what README.md's table says about SIGTERM. Needed after a library's version is changed.
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

LIBRARIES = ["ptb", "aiogram", "grammy", "telegraf", "teloxide"]
CACHE = Path(os.environ.get("POLLUX_CACHE", Path.home() / ".cache/pollux"))
UID = 12345
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
    """An image's root and its entry point, started as a pod would."""

    def __init__(self, library, folder):
        self.root = folder / library
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
        """The bot's process, once it has been started in its own namespace."""
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def terminate(self):
        """Sends SIGTERM; returns the exit code and the seconds that the bot took."""
        begin = time.monotonic()
        os.kill(self.pid(), signal.SIGTERM)
        try:
            code = self.outer.wait(30)
        except subprocess.TimeoutExpired:
            code = "still there"
        return code, time.monotonic() - begin

    def kill(self):
        if self.outer.poll() is None:
            self.outer.kill()
            self.outer.wait()


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
    emulator.call("/push", {"token": token, "count": 3, "chat": 1})
    until("three updates are answered", lambda: all(u["replies"] for u in emulator.updates(token)))
    status = Path(f"/proc/{bot.pid()}/status").read_text()
    if f"Uid:\t{UID}\t{UID}" not in status:
        raise Failed("it does not run as the uid that it was given")
    memory = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    code, seconds = bot.terminate()
    replies = [len(u["replies"]) for u in emulator.updates(token)]
    if replies != [1, 1, 1]:
        raise Failed(f"replies to the three updates: {replies}")
    if code != 0:
        raise Failed(f"exit code {code} after SIGTERM")
    return f"polls {began:.1f} s after its start, {memory} MiB; SIGTERM: exit 0 in {seconds:.1f} s"


def busy(emulator, bot, token, _):
    for chat in (1, 2, 3):
        emulator.call("/push", {"token": token, "count": 1, "chat": chat})
    until("an update is delivered", lambda: any(u["deliveries"] for u in emulator.updates(token)))
    time.sleep(0.5)  # in the middle of the first handler; not something that one could wait for
    code, seconds = bot.terminate()
    updates = emulator.updates(token)
    answered = sum(1 for u in updates if u["replies"])
    lost = sum(1 for u in updates if u["removed"] and not u["replies"])
    again = sum(1 for u in updates if u["replies"] and not u["removed"])
    return f"exit {code} in {seconds:.1f} s; {answered} of 3 answered, {lost} lost, {again} answered but not confirmed"


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    folder = Path(tempfile.mkdtemp(prefix="pollux-bots-"))
    folder.chmod(0o755)
    emulator = Emulator(sys.argv[1])
    failed = 0
    try:
        for number, library in enumerate(sys.argv[2:] or LIBRARIES):
            bot = Bot(library, folder)
            for name, handler_ms, body in (("quiet", 100, quiet), ("busy", 1500, busy)):
                token = f"{1000 + number}{int(name == 'busy')}:check"
                with open(folder / f"{library}-{name}.log", "w+") as log:
                    try:
                        result = trial(emulator, bot, token, handler_ms, log, lambda began: body(emulator, bot, token, began))
                    except Failed as error:
                        failed += 1
                        log.seek(0)
                        result = f"FAILED: {error}\n" + "".join(log.readlines()[-20:])
                print(f"{library:10} {name:6} {result}", flush=True)
    finally:
        emulator.process.terminate()
        emulator.process.wait()
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
