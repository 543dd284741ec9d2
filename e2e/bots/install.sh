#!/usr/bin/env bash
# Builds the bots as plain programs of this machine: no image, no container.
set -euo pipefail

usage() {
    cat <<'END'
usage: e2e/bots/install.sh [--list] [--print-dir NAME] [--help] [NAME...]

Builds the named set-ups of e2e/bots/bots.json (all of them without a name), each into

    ${POLLUX_CACHE:-~/.cache/pollux}/bots/<folder>-<key>

where the key stands for the folder's files and the version of its compiler or interpreter. What is there already is left alone.
The libraries are fetched with the pip, npm, go, mvn or cargo settings of whoever calls. A set-up is run by its `run` and `env`
of bots.json, in its folder.

    --list            print the names, build nothing
    --print-dir NAME  print the folder of an installed set-up, build nothing
END
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
CACHE=${POLLUX_CACHE:-$HOME/.cache/pollux}/bots

say() { printf '%4d s  %-26s %s\n' "$SECONDS" "$1" "$2"; }
fail() { echo "bots: $*" >&2; exit 1; }

# Runs a command silently; on failure shows the end of what it said.
quietly() {
    "$@" >"$STAGE.log" 2>&1 || { tail -n 20 "$STAGE.log" >&2; fail "$FOLDER: failed: $*"; }
}

# --- what is needed, and where it comes from -------------------------------------------------------------------------

way_out() {
    case $1 in
    python3) echo "Python 3.11 or newer with pip: apt-get install python3 python3-pip" ;;
    node | npm) echo "Node 18 or newer: apt-get install nodejs npm" ;;
    go) echo "Go 1.26 or newer: https://go.dev/doc/install" ;;
    java | mvn) echo "Java 17 and Maven: apt-get install openjdk-17-jdk-headless maven" ;;
    cargo) echo "Rust: https://rustup.rs" ;;
    esac
}

need() {
    command -v "$1" >/dev/null || fail "$FOLDER needs $1, which is missing. $(way_out "$1")"
}

# One line that changes when what is built would no longer fit.
version_of() {
    case $1 in
    java) java -version 2>&1 | head -n 1 ;;
    go) go version ;;
    mvn | npm) ;; # they fetch what the lock file or the POM names
    *) "$1" --version ;;
    esac
}

# --- how each kind is built: from $HERE/$FOLDER into $STAGE ----------------------------------------------------------

build_python() {
    python3 -m pip --version >/dev/null 2>&1 || fail "$FOLDER needs pip, which is missing. $(way_out python3)"
    quietly python3 -m pip install --quiet --target "$STAGE/lib" --only-binary=:all: \
        --requirement "$HERE/$FOLDER/requirements.txt"
    cp "$HERE/$FOLDER"/*.py "$STAGE/"
}

build_node() {
    cp "$HERE/$FOLDER"/{package.json,package-lock.json,bot.mjs} "$STAGE/"
    quietly npm ci --prefix "$STAGE" --omit=dev --no-audit --no-fund --ignore-scripts
}

build_go() {
    quietly env -C "$HERE/$FOLDER" CGO_ENABLED=0 go build -trimpath -o "$STAGE/bot" .
}

build_java() {
    cp -r "$HERE/$FOLDER" "$STAGE/build"
    quietly mvn --batch-mode --quiet --file "$STAGE/build/pom.xml" package
    mv "$STAGE"/build/target/bot-*.jar "$STAGE/bot.jar"
    mv "$STAGE/build/target/lib" "$STAGE/lib"
    rm -r "$STAGE/build"
}

# The same target directory as that of the image (e2e/images/build.sh): compiled once for both.
build_rust() {
    local target=${CARGO_TARGET_DIR:-$ROOT/target}/bots host
    host=$(rustc -vV | sed -n 's/^host: //p')
    quietly env -C "$HERE/$FOLDER" cargo build --quiet --locked --target-dir "$target"
    strip -o "$STAGE/bot" "$target/$host/debug/bot-$FOLDER"
}

# Which kind a folder is, by the file that pins its libraries.
kind_of() {
    case $(cd "$HERE/$1" && ls) in
    *requirements.txt*) echo python ;;
    *package-lock.json*) echo node ;;
    *go.sum*) echo go ;;
    *pom.xml*) echo java ;;
    *Cargo.lock*) echo rust ;;
    *) fail "$1: no file that pins its libraries" ;;
    esac
}

# --- one folder ------------------------------------------------------------------------------------------------------

# select_bot NAME: sets FOLDER, NEEDS and, when all that is needed is there, DEST.
select_bot() {
    local found tool
    found=$(python3 -c '
import json, sys
for bot in json.load(open(sys.argv[1]))["bots"]:
    if bot["name"] == sys.argv[2]:
        print(bot["dir"], *bot["needs"])' "$HERE/bots.json" "$1")
    [ -n "$found" ] || fail "no set-up is called $1 (--list shows them)"
    read -r FOLDER NEEDS <<<"$found"
    for tool in $NEEDS; do need "$tool"; done
    DEST=$CACHE/$FOLDER-$(key)
}

key() {
    local tool
    {
        for tool in $NEEDS; do version_of "$tool"; done
        cd "$HERE/$FOLDER"
        find . -type f -not -path './node_modules/*' -not -path './lib/*' -not -path './target/*' -not -name Dockerfile \
            -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        sha256sum <"$HERE/install.sh"
    } | sha256sum | cut -c1-16
}

# Built beside its place and moved there when it is whole: a kill leaves nothing that looks finished.
install_bot() {
    local name=$1 kind
    kind=$(kind_of "$FOLDER")
    (
        flock 9
        [ -d "$DEST" ] || {
            say "$name" "building ($kind)"
            STAGE=$CACHE/.$FOLDER.new
            rm -rf "$STAGE"
            mkdir "$STAGE"
            "build_$kind"
            mv -T "$STAGE" "$DEST"
            rm -f "$STAGE.log"
        }
        say "$name" "$DEST"
    ) 9>"$CACHE/.$FOLDER.lock"
}

# --- main ------------------------------------------------------------------------------------------------------------

[ -d /usr/local/go/bin ] && PATH=$PATH:/usr/local/go/bin
FOLDER=install.sh
need python3
names() { python3 -c 'import json, sys; [print(b["name"]) for b in json.load(open(sys.argv[1]))["bots"]]' "$HERE/bots.json"; }

case ${1:-} in
-h | --help) usage; exit ;;
--list) names; exit ;;
--print-dir)
    [ $# = 2 ] || { usage >&2; exit 2; }
    select_bot "$2"
    [ -d "$DEST" ] || fail "$2 is not installed: run e2e/bots/install.sh $2"
    echo "$DEST"
    exit
    ;;
-*) usage >&2; exit 2 ;;
esac

[ $# -gt 0 ] || { mapfile -t ALL < <(names); set -- "${ALL[@]}"; }
mkdir -p "$CACHE"
for name in "$@"; do
    select_bot "$name"
    install_bot "$name"
done
