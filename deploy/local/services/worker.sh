# shellcheck shell=bash
# Workers of the stack: worker-1, worker-2 … differ only in the port of their admin listener.

worker_word() { echo netrecon-webhooks-worker; }
worker_stop_signal() { echo TERM; }
worker_good_exits() { echo 0; }
worker_program() { echo "$LOCAL_BUILD_DIR/netrecon-webhooks-worker"; }

# Where this stack's own services are comes from the stack; everything else may come from the caller.
worker_environment() {
    unset NRW_DATABASE_URL_FILE NRW_REDIS_URL_FILE NRW_KEYRING
    export NRW_ADMIN_LISTEN NRW_DATABASE_URL NRW_REDIS_URL NRW_KAFKA_BROKERS NRW_KEYRING_FILE
    NRW_ADMIN_LISTEN=127.0.0.1:$(admin_port "${1#worker-}")
    NRW_DATABASE_URL=$(database_url)
    NRW_REDIS_URL=$(redis_url)
    NRW_KAFKA_BROKERS=$(kafka_bootstrap)
    NRW_KEYRING_FILE=$SECRETS/keyring
    export NRW_TOPIC=${NRW_TOPIC:-$TOPIC} NRW_DLQ_TOPIC=${NRW_DLQ_TOPIC:-$DLQ_TOPIC} NRW_GROUP=${NRW_GROUP:-$GROUP}
    export NRW_ALLOW_CIDRS=${NRW_ALLOW_CIDRS-127.0.0.0/8} NRW_ALLOW_HTTP=${NRW_ALLOW_HTTP:-true}
}
worker_settings() { (worker_environment "$1" && env | grep '^NRW_' | sort | sha256sum); }

worker_prepare() {
    [[ -x $(worker_program) ]] || die "$(worker_program) is not built yet: deploy/local/up builds it"
}
worker_spawn() {
    worker_settings "$1" >"$RUN/$1.settings"
    worker_environment "$1"
    ulimit -n "$(ulimit -Hn)"
    service_spawn "$1" "$(worker_program)"
}
worker_ready() { [[ $(http_status "$(admin_port "${1#worker-}")" /ready) == 200 ]]; }
worker_after_ready() { :; }
