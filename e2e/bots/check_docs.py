#!/usr/bin/env python3
"""Compares docs/connect with the programs that the tests run.

usage: e2e/bots/check_docs.py       (from anywhere; exit code 1 and the page's name when they differ)

For each set-up of bots.json: the lines that set the API's root are lines of its program, stand in a code block of its page and
in the index; the version is the one that is pinned, and its page and README.md here name it. For each page: every line of its code
is a line of a program that it is about, so that nobody copies what no test has run; and it has a manifest.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONNECT = HERE.parent.parent / "docs/connect"
SETUPS = json.loads((HERE / "bots.json").read_text())["bots"]
PINS = ["requirements.txt", "package.json", "go.mod", "pom.xml", "Cargo.lock"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = {"python", "js", "go", "java", "rust"}


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def code_of(page):
    """The lines of a page's code blocks in the languages of bots."""
    return [line for language, block in BLOCK.findall(page) if language in CODE for line in lines_of(block)]


def read(path, problems):
    if path.is_file():
        return path.read_text()
    problems.append(f"{path.name}: missing")
    return ""


def check_setup(setup, page, index, readme, problems):
    name, where = setup["name"], f"docs/connect/{setup['page']}.md"
    program = lines_of((HERE / setup["dir"] / setup["source"]).read_text())
    for line in setup["lines"]:
        if line not in program:
            problems.append(f"bots.json, {name}: {setup['dir']}/{setup['source']} has no line: {line}")
        if line not in code_of(page):
            problems.append(f"{where}: no code block has the line of {name}: {line}")
        if f"`{line}`" not in index and line not in code_of(index):
            problems.append(f"docs/connect/README.md: the line of {name} is missing: {line}")
    pins = "".join((HERE / setup["dir"] / pin).read_text() for pin in PINS if (HERE / setup["dir"] / pin).is_file())
    if not re.search(rf"(?<![\d.]){re.escape(setup['version'])}(?![\d.])", pins):
        problems.append(f"bots.json, {name}: version {setup['version']} is not what {setup['dir']} pins")
    for place, text in ((where, page), ("e2e/bots/README.md", readme)):
        if setup["version"] not in text:
            problems.append(f"{place}: does not name version {setup['version']} of {name}")


def check_page(name, page, problems):
    """A page shows nothing but lines of the programs that it is about."""
    about = [setup for setup in SETUPS if setup["page"] == name]
    known = {line for setup in about for line in lines_of((HERE / setup["dir"] / setup["source"]).read_text())}
    for line in code_of(page):
        if line not in known:
            problems.append(f"docs/connect/{name}.md: no program has the line: {line}")
    if not any("kind: TelegramBot" in block for language, block in BLOCK.findall(page) if language == "yaml"):
        problems.append(f"docs/connect/{name}.md: no manifest")


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    problems = []
    index = read(CONNECT / "README.md", problems)
    readme = read(HERE / "README.md", problems)
    pages = {name: read(CONNECT / f"{name}.md", problems) for name in sorted({setup["page"] for setup in SETUPS})}
    for setup in SETUPS:
        check_setup(setup, pages[setup["page"]], index, readme, problems)
    for name, page in pages.items():
        check_page(name, page, problems)
        if f"]({name}.md)" not in index:
            problems.append(f"docs/connect/README.md: no link to {name}.md")
    strangers = {path.stem for path in CONNECT.glob("*.md")} - set(pages) - {"README"}
    problems += [f"docs/connect/{name}.md: no set-up of bots.json is about it" for name in sorted(strangers)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(SETUPS)} set-ups, {len(pages)} pages, {len(problems)} differences")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
