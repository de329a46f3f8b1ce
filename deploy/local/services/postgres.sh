# shellcheck shell=bash
# PostgreSQL >= 15 of the stack: a private cluster, password only, TCP on 127.0.0.1 only, as durable as in
# production (fsync, synchronous_commit). Root may not run PostgreSQL, so for root the cluster belongs
# to the user postgres; when that user cannot reach LOCAL_DIR the cluster lies under /var/tmp and LOCAL_DIR
# records where.

postgres_word() { echo /bin/postgres; }
postgres_ports() { echo "PG"; }
postgres_stop_signal() { echo INT; } # fast shutdown: sessions end, a checkpoint is written
postgres_good_exits() { echo 0; }

as_postgres() {
    if ((EUID == 0)); then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups "$@")
    else
        "$@"
    fi
}

postgres_home() { if [[ -r $LOCAL_DIR/postgres.where ]]; then cat "$LOCAL_DIR/postgres.where"; fi; }

# The programs of the cluster's own version, or the newest for a new cluster.
postgres_bin() {
    local home version bin
    home=$(postgres_home)
    if [[ -n $home && -r $home/data/PG_VERSION ]]; then
        version=$(<"$home/data/PG_VERSION")
    else
        version=$(find /usr/lib/postgresql -maxdepth 1 -name '[1-9][0-9]' -printf '%f\n' 2>/dev/null | sort -n | tail -n 1)
    fi
    bin=/usr/lib/postgresql/$version/bin
    if [[ ! -x $bin/initdb ]] || ((version < 15)); then
        die "PostgreSQL 15 or newer is not in /usr/lib/postgresql: install the package postgresql-15"
    fi
    printf '%s' "$bin"
}

postgres_prepare() {
    local home bin
    home=$(postgres_home)
    if [[ -z $home || ! -d $home ]]; then
        home=$LOCAL_DIR/postgres
        if ((EUID == 0)) && ! as_postgres test -x "$LOCAL_DIR"; then
            home=$(mktemp -d /var/tmp/netrecon-webhooks-local.XXXXXX)
            warn "the user postgres cannot reach $LOCAL_DIR: its files go to $home"
        fi
        mkdir -p "$home"
        chmod 700 "$home"
        if ((EUID == 0)); then
            chown postgres:postgres "$home"
        fi
        printf '%s\n' "$home" >"$LOCAL_DIR/postgres.where"
    fi
    bin=$(postgres_bin)
    if [[ ! -e $home/initialised ]]; then
        as_postgres rm -rf "$home/data"
        secret postgres-admin | as_postgres sh -c 'umask 077; cat >"$1"' sh "$home/password"
        # No sync here: a machine that crashes now simply begins again.
        as_postgres "$bin/initdb" -D "$home/data" -U postgres --auth=scram-sha-256 --pwfile="$home/password" \
            --encoding=UTF8 --locale=C.UTF-8 --no-sync >"$LOGS/initdb.log" 2>&1 ||
            die "initdb failed; see $LOGS/initdb.log"
        as_postgres rm "$home/password"
        as_postgres touch "$home/initialised"
    fi
    postgres_configuration | as_postgres sh -c 'cat >"$1"' sh "$home/data/postgresql.conf"
    echo 'host all all 127.0.0.1/32 scram-sha-256' | as_postgres sh -c 'cat >"$1"' sh "$home/data/pg_hba.conf"
}

postgres_configuration() {
    cat <<EOF
listen_addresses = '127.0.0.1'
port = ${PORT[PG]}
unix_socket_directories = ''
max_connections = 100
shared_buffers = 128MB
max_wal_size = 2GB
fsync = on
synchronous_commit = on
full_page_writes = on
dynamic_shared_memory_type = mmap
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
EOF
}

postgres_spawn() {
    local home bin
    home=$(postgres_home)
    bin=$(postgres_bin)
    if ((EUID == 0)); then
        service_spawn postgres setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -D "$home/data"
    else
        service_spawn postgres "$bin/postgres" -D "$home/data"
    fi
}

postgres_ready() { PGCONNECT_TIMEOUT=2 pg_isready -q -h 127.0.0.1 -p "${PORT[PG]}"; }

# The worker's role owns its database and is no superuser, as it would be in production.
postgres_after_ready() {
    local password
    password=$(secret postgres)
    psql -X -q -v ON_ERROR_STOP=1 "$(admin_database_url)" <<EOF
SELECT 'CREATE ROLE netrecon LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'netrecon') \\gexec
SET password_encryption = 'scram-sha-256';
ALTER ROLE netrecon PASSWORD '$password';
SELECT 'CREATE DATABASE netrecon OWNER netrecon' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'netrecon') \\gexec
EOF
}

# What a killed PostgreSQL leaves outside its folder: one System V segment, named in postmaster.pid.
postgres_purge() {
    local home id
    home=$(postgres_home)
    [[ -n $home && -d $home ]] || return 0
    if id=$(awk 'NR == 7 { print $2 }' "$home/data/postmaster.pid" 2>/dev/null) && [[ -n $id ]]; then
        ipcrm -m "$id" 2>/dev/null || true
    fi
    rm -rf "$home"
}
