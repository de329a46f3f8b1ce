# shellcheck shell=bash
# Redis >= 7 of the stack: append-only file, nothing evicted, a password, 127.0.0.1 only.
# Debian's redis-tools carries the server too (redis-server is a link to redis-check-rdb, which looks at
# its own name), so the package that would start a system service is not needed.

redis_word() { echo redis-server; }
redis_ports() { echo "REDIS"; }
redis_stop_signal() { echo TERM; }
redis_good_exits() { echo 0; }

redis_program() {
    command -v redis-server && return
    [[ -x /usr/bin/redis-check-rdb ]] || die "Redis is not installed: install the package redis-tools"
    ln -sfn /usr/bin/redis-check-rdb "$LOCAL_DIR/redis/redis-server"
    echo "$LOCAL_DIR/redis/redis-server"
}

redis_prepare() {
    mkdir -p "$LOCAL_DIR/redis"
    cat >"$LOCAL_DIR/redis/redis.conf" <<EOF
bind 127.0.0.1
port ${PORT[REDIS]}
protected-mode yes
requirepass $(secret redis)
daemonize no
dir "$LOCAL_DIR/redis"
appendonly yes
appendfsync everysec
save ""
maxmemory 512mb
maxmemory-policy noeviction
EOF
}

redis_spawn() { service_spawn redis "$(redis_program)" "$LOCAL_DIR/redis/redis.conf"; }
redis_ready() {
    [[ $(REDISCLI_AUTH=$(secret redis) timeout 2 redis-cli -h 127.0.0.1 -p "${PORT[REDIS]}" ping 2>/dev/null) == PONG ]]
}
redis_after_ready() { :; }
