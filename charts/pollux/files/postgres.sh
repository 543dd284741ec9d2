# A throwaway PostgreSQL out of any image that has one: run by /bin/sh as any uid with a read-only root.
# The database is made under another name and renamed, so that a kill in the middle leaves nothing half made.
set -eu
for bin in /usr/lib/postgresql/*/bin; do
  [ ! -d "$bin" ] || PATH="$bin:$PATH"
done
export PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  new="$PGDATA.new"
  rm -rf "$new"
  # Inside of the pod the superuser needs no password (kubectl exec ... psql); over the network nobody is let in without one.
  initdb --pgdata="$new" --username=postgres --auth-local=peer --auth-host=scram-sha-256 --encoding=UTF8 --locale=C
  printf 'host all all all scram-sha-256\n' >>"$new/pg_hba.conf"
  # CREATEROLE, not superuser: what docs/install.md asks of a database of your own is what is tried here. The password (letters
  # and digits only) is in no process's arguments: printf is built into the shell.
  password=$(cat /run/pollux/owner/password)
  single() { postgres --single -D "$new" -c exit_on_error=on postgres >/dev/null; }
  printf "CREATE ROLE pollux LOGIN CREATEROLE PASSWORD '%s';\n" "$password" | single
  echo 'CREATE DATABASE pollux OWNER pollux;' | single
  mv "$new" "$PGDATA"
fi
# 200 connections: one for each agent, a few for the operator.
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql -c max_connections=200 -c shared_buffers=32MB
