#!/bin/sh
# Starts PostgreSQL as whatever uid the pod has, on a read-only root. It reads what the official image's entry point reads:
#   POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE (needed), POSTGRES_USER (postgres), POSTGRES_DB (the user's name),
#   POSTGRES_INITDB_ARGS, PGDATA (a directory that does not exist yet, in a volume).
# Writable: the volume around PGDATA, /var/run/postgresql, /tmp.
set -eu

fail() { echo "docker-entrypoint.sh: $*" >&2; exit 1; }

# initdb refuses a uid without a name. An unknown uid gets one through nss_wrapper.
name_this_uid() {
    id -un >/dev/null 2>&1 && return
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
    echo "postgres:x:$(id -u):$(id -g)::/tmp:/bin/false" >"$NSS_WRAPPER_PASSWD"
    echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
    LD_PRELOAD=libnss_wrapper.so
    export LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
}

# The cluster is made beside its place and renamed when it is complete: a pod that is killed meanwhile leaves nothing behind
# that the next start could take for data.
make_cluster() {
    password_file=${POSTGRES_PASSWORD_FILE:-}
    if [ -z "$password_file" ]; then
        [ -n "${POSTGRES_PASSWORD:-}" ] || fail "set POSTGRES_PASSWORD_FILE (or POSTGRES_PASSWORD) to the password of ${POSTGRES_USER}"
        password_file=$(mktemp)
        printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
    fi
    [ -s "$password_file" ] || fail "the password file $password_file is missing or empty"

    new=$PGDATA.new
    rm -rf "$new"
    mkdir -p "$(dirname "$PGDATA")"
    # shellcheck disable=SC2086  # several arguments in one variable, as the official image has it
    initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$password_file" --encoding=UTF8 --locale=C \
        --auth-local=trust --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
    echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$new/postgresql.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$new" postgres >/dev/null
    fi
    mv "$new" "$PGDATA"
}

[ "$(id -u)" != 0 ] || fail "PostgreSQL does not run as root: set runAsUser"
POSTGRES_USER=${POSTGRES_USER:-postgres}
POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
case ${1:-} in
"" | -*) set -- postgres "$@" ;;
esac

name_this_uid
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -e "$PGDATA" ]; then
        fail "$PGDATA exists and holds no cluster: let PGDATA name a directory inside of the volume"
    fi
    make_cluster
fi
unset POSTGRES_PASSWORD
exec "$@"
