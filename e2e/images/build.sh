#!/usr/bin/env bash
# Builds the project's images from their Dockerfiles, without a registry and without a Docker engine.
set -euo pipefail

usage() {
    cat <<'END'
usage: e2e/images/build.sh [--no-cargo] [--push=REGISTRY] [--list] [--help] [NAME...]

Builds the named images (all of them without a name) and writes each as an archive that `ctr images import`,
`docker load` and `kind load image-archive` take:

    ${POLLUX_CACHE:-~/.cache/pollux}/images/<name>.tar     named ghcr.io/pollux-operator/<name>:<tag> inside

What did not change since the last time is left alone. A NAME is an image's name, or one of the groups
`product` (pollux-controller, pollux-agent) and `bots` (e2e-bot-*).

    --no-cargo      take the workspace's binaries as they lie in the target directory; build nothing with cargo
    --push=REGISTRY also push them there, as REGISTRY/<name>:<tag> (registry.example.org/pollux; loopback needs no TLS)
    --list          print the names and the archives' paths, build nothing

Environment:
    POLLUX_CACHE        where roots and archives are kept
    CARGO_TARGET_DIR    as cargo reads it (default: target/ of the workspace)
    PROFILE             dev (default) or release
    IMAGE_BUILDER       buildah (default; needs no engine) or docker
    DEBIAN_MIRROR       a mirror of Debian, given to mmdebstrap (buildah only)
    PYTHON_BASE, NODE_BASE, POSTGRES_IMAGE
                        the images that docker starts from (docker only; defaults: the official ones)
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${POLLUX_CACHE:-$HOME/.cache/pollux}
OUT=$CACHE/images
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
PROFILE=${PROFILE:-dev}
BUILDER=${IMAGE_BUILDER:-buildah}
REGISTRY=ghcr.io/pollux-operator
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
PYTHON_VERSION=3.11 # of Debian 12 and of PYTHON_BASE: wheels are chosen for it
POSTGRES_MAJOR=15   # of Debian 12
# What is published is built with the profile release; the tests' dev programs are about half as large again.
PRODUCT_LIMIT_MIB=20
[ "$PROFILE" = release ] || PRODUCT_LIMIT_MIB=30
PRODUCT=(pollux-controller pollux-agent)
BOTS=(e2e-bot-ptb e2e-bot-aiogram e2e-bot-grammy e2e-bot-telegraf e2e-bot-teloxide)
ALL=("${PRODUCT[@]}" e2e-botapi e2e-postgres "${BOTS[@]}")
CARGO=yes
PUSH=

# --- what is said on the way -----------------------------------------------------------------------------------------

say() { printf '%4d s  %-18s %s\n' "$SECONDS" "$1" "$2"; }
fail() { echo "images: $*" >&2; exit 1; }
mib() { echo "$(($(stat -c %s "$1") / 1048576)) MiB"; }

# Runs a command silently; on failure shows the end of what it said.
quietly() {
    local log=$WORK/log
    "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "failed: $*"; }
}

# --- what has changed ------------------------------------------------------------------------------------------------

# One hash over files and directories (names and contents; libraries and build products inside of them apart).
hash_of() {
    (cd "$ROOT" && find "$@" -type f -not -path '*/node_modules/*' -not -path '*/lib/*' -not -path '*/target/*' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-64
}

# unchanged FILE KEY: is FILE there, made from what KEY stands for?
unchanged() { [ -s "$1" ] && [ "$(cat "$1.key" 2>/dev/null)" = "$2" ]; }

# keep NEW FILE KEY: NEW becomes FILE, in an order in which a kill at any point leaves no wrong key.
keep() {
    rm -f "$2.key"
    mv "$1" "$2"
    echo "$3" >"$2.key"
}

# --- tools -----------------------------------------------------------------------------------------------------------

# need COMMAND PACKAGE WHY: brings a Debian package when its command is missing.
need() {
    command -v "$1" >/dev/null && return
    echo "        installing $2: $3"
    command -v apt-get >/dev/null || fail "$1 is missing and this is not a Debian: install it ($3)"
    [ "$(id -u)" = 0 ] || fail "$1 is missing: run \`sudo apt-get install $2\` ($3)"
    [ -n "${APT_UPDATED:-}" ] || quietly apt-get update
    APT_UPDATED=yes
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$2"
}

# --- the two builders ------------------------------------------------------------------------------------------------

# buildah keeps its layers in the work directory; vfs and chroot need nothing of the machine (no overlay, no namespaces). It
# cannot take the network away from RUN; docker can and does, so a Dockerfile that wanted one would fail there.
image_store() { buildah --root "$WORK/store" --runroot "$WORK/run" --storage-driver vfs "$@"; }

# build_image REFERENCE CONTEXT DOCKERFILE [--build-arg X=Y...]
build_image() {
    local reference=$1 context=$2 dockerfile=$3
    shift 3
    if [ "$BUILDER" = docker ]; then
        quietly docker build --network none --tag "$reference" --file "$dockerfile" "$@" "$context"
    else
        # One layer an image, no dates: the same inputs give the same digest, and containerd keeps one copy.
        quietly image_store bud --isolation chroot --layers=false --timestamp 0 --pull=never \
            --tag "$reference" --file "$dockerfile" "$@" "$context"
    fi
}

# save_image REFERENCE FILE
save_image() {
    if [ "$BUILDER" = docker ]; then
        quietly docker save --output "$2" "$1"
    else
        quietly image_store push "$1" "docker-archive:$2:$1"
    fi
}

# push_image NAME TAG: the archive of an image goes to the registry, by the builder's own login (buildah login, docker login).
push_image() {
    local from=$REGISTRY/$1:$2 to=$PUSH/$1:$2 tls=true
    case $PUSH in localhost[:/]* | 127.0.0.1[:/]*) tls=false ;; esac
    if [ "$BUILDER" = docker ]; then
        quietly docker load --input "$OUT/$1.tar"
        quietly docker tag "$from" "$to"
        quietly docker push "$to"
    else
        quietly image_store pull "docker-archive:$OUT/$1.tar"
        quietly image_store push --tls-verify=$tls "$from" "docker://$to"
    fi
    say "$1" "pushed to $to"
}

# --- roots -----------------------------------------------------------------------------------------------------------

# root NAME PACKAGES EXCLUDED...: a Debian root with PACKAGES and what they need, in $OUT/root-NAME.tar.
# `extract` unpacks packages without running their scripts and without Debian's essential ones (no apt, no perl: a third of
# debian:12-slim); a shell and the coreutils are there for whoever looks inside. What the scripts would have made is made here.
root() {
    local name=$1 packages=$2 file=$OUT/root-$1.tar excluded=() path
    shift 2
    need mmdebstrap mmdebstrap "makes the Debian roots of the test images"
    for path in '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/lintian/*' "$@"; do
        excluded+=("--dpkgopt=path-exclude=$path")
    done
    local users='root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/false\nnobody:x:65534:65534::/nonexistent:/bin/false\n'
    local hook="printf '$users' >\"\$1/etc/passwd\"; printf 'root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n' >\"\$1/etc/group\";
        echo 'hosts: files dns' >\"\$1/etc/nsswitch.conf\"; mkdir -p \"\$1/run/postgresql\"; ln -sfn /run \"\$1/var/run\";
        rm -rf \"\$1\"/etc/resolv.conf \"\$1\"/etc/hostname \"\$1\"/etc/apt \"\$1\"/var/lib/apt \"\$1\"/var/cache \"\$1\"/var/log/*"
    local key
    key=$(echo "$packages ${excluded[*]} $hook" | sha256sum | cut -c1-64)
    unchanged "$file" "$key" && return
    say "root-$name" "Debian 12 with $packages (~20 s)"
    # shellcheck disable=SC2086  # no mirror is no argument
    SOURCE_DATE_EPOCH=0 quietly mmdebstrap --variant=extract --include="$packages,base-files,coreutils,dash" "${excluded[@]}" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --customize-hook="$hook" --skip=output/dev \
        bookworm "$WORK/root.tar" ${DEBIAN_MIRROR:-}
    keep "$WORK/root.tar" "$file" "$key"
    say "root-$name" "$(mib "$file")"
}

root_python() { root python python3; }
root_node() { root node nodejs; }

# Postgres without what a throwaway database never uses: LLVM (just-in-time compilation), perl and its callers, other charsets.
root_postgres() {
    root postgres "postgresql-$POSTGRES_MAJOR" \
        '/usr/lib/x86_64-linux-gnu/libLLVM*' '/usr/lib/x86_64-linux-gnu/libz3*' '/usr/lib/x86_64-linux-gnu/perl*' \
        '/usr/lib/x86_64-linux-gnu/libperl*' '/usr/share/perl*' '/usr/bin/perl*' '/usr/share/i18n/*' \
        '/usr/lib/x86_64-linux-gnu/gconv/*' "/usr/lib/postgresql/$POSTGRES_MAJOR/lib/bitcode/*" \
        "/usr/lib/postgresql/$POSTGRES_MAJOR/lib/llvmjit*" "/usr/share/postgresql/$POSTGRES_MAJOR/man/*" \
        '/usr/share/postgresql-common/*' '/usr/share/ca-certificates/*'
}

# base NAME: the image that bots start from; sets BASE.
base() {
    if [ "$BUILDER" = docker ]; then
        case $1 in
        python) BASE=${PYTHON_BASE:-python:$PYTHON_VERSION-slim-bookworm} ;;
        node) BASE=${NODE_BASE:-node:18-bookworm-slim} ;;
        esac
        return
    fi
    BASE=localhost/pollux-root-$1
    [ -e "$WORK/context-root-$1" ] && return
    mkdir "$WORK/context-root-$1"
    ln "$OUT/root-$1.tar" "$WORK/context-root-$1/root.tar"
    build_image "$BASE" "$WORK/context-root-$1" "$ROOT/e2e/images/root/Dockerfile"
}

# What the key of a bot's image holds about its base.
base_key() {
    if [ "$BUILDER" = docker ]; then
        base "$1"
        echo "$BASE"
    else
        "root_$1" >&2
        cat "$OUT/root-$1.tar.key"
    fi
}

# --- images ----------------------------------------------------------------------------------------------------------

# image NAME TAG KEY STAGE DOCKERFILE: writes the archive, unless it is there. STAGE is a command that fills the build
# context $CONTEXT and may add to BUILD_ARGS; it runs only when something has changed.
image() {
    local name=$1 file=$OUT/$1.tar reference=$REGISTRY/$1:$2 stage=$4 dockerfile=$ROOT/$5 key
    key=$(echo "$reference $BUILDER $3 $(hash_of "$5" e2e/images/build.sh)" | sha256sum | cut -c1-64)
    if unchanged "$file" "$key"; then
        say "$name" "unchanged, $(mib "$file")"
        return
    fi
    CONTEXT=$WORK/context-$name
    BUILD_ARGS=()
    mkdir "$CONTEXT"
    $stage
    build_image "$reference" "$CONTEXT" "$dockerfile" "${BUILD_ARGS[@]}"
    save_image "$reference" "$WORK/$name.tar"
    rm -rf "$CONTEXT"
    keep "$WORK/$name.tar" "$file" "$key"
    say "$name" "$(mib "$file")  $reference"
}

# The workspace's binaries, stripped, in $WORK/bin. Built together and with the workspace's one set of features.
binaries() {
    [ -d "$WORK/bin" ] && return
    local folder=$PROFILE
    [ "$PROFILE" = dev ] && folder=debug
    BINARIES=$TARGET/$(rustc -vV | sed -n 's/^host: //p')/$folder
    if [ "$CARGO" = yes ]; then
        say binaries "cargo build --bins, profile $PROFILE"
        (cd "$ROOT" && cargo build --quiet --locked --workspace --bins --profile "$PROFILE" --target-dir "$TARGET")
    fi
    mkdir "$WORK/bin"
}

# binary_image NAME TAG BINARY DOCKERFILE
binary_image() {
    binaries
    BINARY=$3
    [ -x "$BINARIES/$BINARY" ] || fail "$BINARIES/$BINARY is missing: cargo build --bins makes it"
    [ -f "$ROOT/$4" ] || fail "$4 is missing"
    strip -o "$WORK/bin/$BINARY" "$BINARIES/$BINARY"
    # A program that names an interpreter needs libraries at run time, and `FROM scratch` has none.
    ! readelf -lW "$WORK/bin/$BINARY" | grep -q INTERP || fail "$BINARY is linked dynamically: build it inside of the workspace (.cargo/config.toml)"
    image "$1" "$2" "$(sha256sum <"$WORK/bin/$BINARY")" stage_binary "$4"
}
stage_binary() { ln "$WORK/bin/$BINARY" "$CONTEXT/"; }

product_image() {
    binary_image "$1" "$VERSION" "$1" "$2"
    local size
    size=$(stat -c %s "$OUT/$1.tar")
    [ "$size" -le $((PRODUCT_LIMIT_MIB * 1048576)) ] || fail "$1 is larger than $PRODUCT_LIMIT_MIB MiB"
}

postgres_image() {
    if [ "$BUILDER" = docker ]; then
        local reference=$REGISTRY/e2e-postgres:dev official=${POSTGRES_IMAGE:-postgres:$POSTGRES_MAJOR-bookworm}
        unchanged "$OUT/e2e-postgres.tar" "$official" || {
            docker image inspect "$official" >/dev/null 2>&1 || quietly docker pull "$official"
            quietly docker tag "$official" "$reference"
            save_image "$reference" "$WORK/e2e-postgres.tar"
            keep "$WORK/e2e-postgres.tar" "$OUT/e2e-postgres.tar" "$official"
        }
        say e2e-postgres "$(mib "$OUT/e2e-postgres.tar")  $official as $reference"
        return
    fi
    root_postgres
    image e2e-postgres dev "$(cat "$OUT/root-postgres.tar.key")" stage_postgres e2e/images/postgres/Dockerfile
}
stage_postgres() { ln "$OUT/root-postgres.tar" "$CONTEXT/root.tar"; }

# bot_image LIBRARY BASE STAGE: BASE is python, node or nothing.
bot_image() {
    local key=scratch
    BOT=$ROOT/e2e/bots/$1 BOT_BASE=$2
    if [ -n "$2" ]; then key=$(base_key "$2"); fi
    image "e2e-bot-$1" dev "$key $(hash_of "e2e/bots/$1")" "$3" "e2e/bots/$1/Dockerfile"
}

stage_python() {
    python3 -m pip --version >/dev/null 2>&1 || need pip3 python3-pip "fetches the Python bots' libraries"
    # Wheels only, for the Python of the base and not for the one that fetches them; compiled in the Dockerfile.
    quietly python3 -m pip install --quiet --no-compile --target "$CONTEXT/lib" --python-version "$PYTHON_VERSION" \
        --only-binary=:all: --requirement "$BOT/requirements.txt"
    cp "$BOT/bot.py" "$CONTEXT/"
    base "$BOT_BASE"
    BUILD_ARGS=(--build-arg "BASE=$BASE")
}

stage_node() {
    need npm npm "fetches the Node bots' libraries"
    cp "$BOT"/{package.json,package-lock.json,bot.mjs} "$CONTEXT/"
    quietly npm ci --prefix "$CONTEXT" --omit=dev --no-audit --no-fund --ignore-scripts
    base "$BOT_BASE"
    BUILD_ARGS=(--build-arg "BASE=$BASE")
}

# A target directory of its own: it shares no lock with the workspace's builds.
stage_rust() {
    say e2e-bot-teloxide "cargo build (~1 min)"
    (cd "$BOT" && cargo build --quiet --locked --target-dir "$TARGET/bots")
    strip -o "$CONTEXT/bot-teloxide" "$TARGET/bots/$(rustc -vV | sed -n 's/^host: //p')/debug/bot-teloxide"
}

build_one() {
    case $1 in
    pollux-controller) product_image "$1" operator/controller/Dockerfile ;;
    pollux-agent) product_image "$1" operator/agent/Dockerfile ;;
    e2e-botapi) binary_image "$1" dev pollux-botapi e2e/images/botapi/Dockerfile ;;
    e2e-postgres) postgres_image ;;
    e2e-bot-ptb | e2e-bot-aiogram) bot_image "${1#e2e-bot-}" python stage_python ;;
    e2e-bot-grammy | e2e-bot-telegraf) bot_image "${1#e2e-bot-}" node stage_node ;;
    e2e-bot-teloxide) bot_image teloxide "" stage_rust ;;
    *) fail "no image is called $1 (--list shows them)" ;;
    esac
}

# --- main ------------------------------------------------------------------------------------------------------------

NAMES=()
for argument in "$@"; do
    case $argument in
    -h | --help) usage; exit ;;
    --no-cargo) CARGO=no ;;
    --push=*) PUSH=${argument#*=} ;;
    --list) for name in "${ALL[@]}"; do printf '%-18s %s\n' "$name" "$OUT/$name.tar"; done; exit ;;
    -*) usage >&2; exit 2 ;;
    product) NAMES+=("${PRODUCT[@]}") ;;
    bots) NAMES+=("${BOTS[@]}") ;;
    *) NAMES+=("$argument") ;;
    esac
done
[ ${#NAMES[@]} -gt 0 ] || NAMES=("${ALL[@]}")
for name in "${NAMES[@]}"; do
    case " ${ALL[*]} " in *" $name "*) ;; *) fail "no image is called $name (--list shows them)" ;; esac
done
case $BUILDER in buildah | docker) ;; *) fail "IMAGE_BUILDER is buildah or docker, not $BUILDER" ;; esac

mkdir -p "$OUT"
exec 9>"$OUT/.lock"
flock -n 9 || { echo "        another build of images is running; waiting for it"; flock 9; }
# The lock is ours, so every work directory that is left belongs to a build that was killed.
rm -rf --one-file-system "$OUT"/.work.*
WORK=$(mktemp -d "$OUT/.work.XXXXXX")
trap 'rm -rf --one-file-system "$WORK"' EXIT
export TMPDIR=$WORK
if [ "$BUILDER" = buildah ]; then
    need buildah buildah "builds images from Dockerfiles without a Docker engine"
fi

for name in "${NAMES[@]}"; do build_one "$name"; done
if [ -n "$PUSH" ]; then
    for name in "${NAMES[@]}"; do
        case " ${PRODUCT[*]} " in *" $name "*) tag=$VERSION ;; *) tag=dev ;; esac
        push_image "$name" "$tag"
    done
fi
say "all done" "$OUT"
