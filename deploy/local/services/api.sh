# shellcheck shell=bash
# The REST API of the stack, on a port of its own, with the workers' database, Redis and key ring, and a secret
# that verifies the demo's token.

api_word() { echo netrecon-webhooks-api; }
api_ports() { echo "API API_ADMIN"; }
api_stop_signal() { echo TERM; }
api_good_exits() { echo 0; }
api_program() { echo "$LOCAL_BUILD_DIR/netrecon-webhooks-api"; }

api_environment() {
    worker_environment worker-1
    unset NRW_JWT_SECRET
    export NRW_ADMIN_LISTEN=127.0.0.1:${PORT[API_ADMIN]} NRW_API_LISTEN=127.0.0.1:${PORT[API]}
    export NRW_JWT_SECRET_FILE=$SECRETS/jwt
}
api_settings() { (api_environment && env | grep '^NRW_' | sort | sha256sum); }

api_prepare() {
    [[ -x $(api_program) ]] || die "$(api_program) is not built yet: deploy/local/up builds it"
}
api_spawn() {
    api_settings >"$RUN/api.settings"
    api_environment
    ulimit -n "$(ulimit -Hn)"
    service_spawn api "$(api_program)"
}
api_ready() { [[ $(http_status "${PORT[API]}" /ready) == 200 ]]; }
api_after_ready() { :; }
