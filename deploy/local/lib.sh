# shellcheck shell=bash
# What every script in this folder shares: where things are, ports, secrets, messages, waiting.
# Sourced, never run. Starts no service and stops none (supervise.sh does); writes only inside LOCAL_DIR.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)

# A PGHOST, PGSERVICE or PGOPTIONS of the caller must not lead psql to another server.
unset "${!PG@}"
export LC_ALL=C.UTF-8

LOCAL_DIR=${LOCAL_DIR:-$root/.local}
[[ $LOCAL_DIR == /* ]] || LOCAL_DIR=$PWD/$LOCAL_DIR
LOCAL_DIR=$(realpath -ms "$LOCAL_DIR")
LOCAL_BUILD_DIR=${LOCAL_BUILD_DIR:-$root/.build/dev}
RUN=$LOCAL_DIR/run
LOGS=$LOCAL_DIR/log
SECRETS=$LOCAL_DIR/secrets
LEDGER=$LOCAL_DIR/sink/ledger
MARKER=$LOCAL_DIR/.netrecon-webhooks-local

DEMO_TENANT=0d1e2f30-4a5b-4c6d-8e7f-90a1b2c3d4e5
TOPIC=netrecon.events
DLQ_TOPIC=netrecon.events.dlq
GROUP=netrecon-webhooks

# ---------------------------------------------------------------- messages

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' yellow=$'\e[33m' plain=$'\e[0m'
else
    bold='' green='' red='' yellow='' plain=''
fi

say() { printf '%s\n' "$*"; }
step() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

# The comment block at the top of the script is its manual.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }
usage_error() {
    warn "$* (see --help)"
    exit 2
}

# ---------------------------------------------------------------- state

# Only a folder that carries our marker is ever written to or removed. It appears with its marker in one step
# (rename replaces nothing but an empty folder), so that two commands may begin at once.
state_init() {
    local draft
    if [[ ! -e $MARKER ]]; then
        mkdir -p "$(dirname "$LOCAL_DIR")"
        draft=$(mktemp -d "$LOCAL_DIR.XXXXXX") || die "cannot make LOCAL_DIR=$LOCAL_DIR"
        : >"$draft/${MARKER##*/}"
        chmod 711 "$draft" # the user postgres passes through to its own folder; it cannot list this one
        if ! mv -T "$draft" "$LOCAL_DIR" 2>/dev/null; then
            rm -rf "$draft"
            [[ -e $MARKER ]] || die "LOCAL_DIR=$LOCAL_DIR is not empty and was not made by this stack; choose another"
        fi
    fi
    [[ -O $MARKER ]] || die "$LOCAL_DIR belongs to another user: run as that user, or set LOCAL_DIR"
    (umask 077 && mkdir -p "$RUN" "$LOGS" "$SECRETS" "$LOCAL_DIR/ports" "$LOCAL_DIR/tmp")
    secret_make postgres-admin random_hex 24
    secret_make postgres random_hex 24
    secret_make redis random_hex 24
    secret_make keyring random_keyring
    secret_make demo-whsec random_whsec
    secret_make demo-plain random_plain
    secret_make jwt random_hex 32
}

state_exists() { [[ -e $MARKER && -d $SECRETS ]]; }
state_require() {
    state_exists || die "nothing is set up in $LOCAL_DIR yet: run deploy/local/up"
    [[ -r $SECRETS && -x $SECRETS ]] || die "$LOCAL_DIR belongs to another user: run as that user"
}

random_bytes64() { head -c "$1" /dev/urandom | base64 -w0; }
random_hex() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
random_keyring() { printf 'local1:%s' "$(random_bytes64 32)"; }
random_whsec() { printf 'whsec_%s' "$(random_bytes64 32)"; }
random_plain() { printf 'plain-%s' "$(random_hex 16)"; }

# secret_make NAME COMMAND...: keeps what exists; a concurrent caller gets the same value (ln fails if it is there).
secret_make() {
    local file=$SECRETS/$1 draft
    shift
    [[ -s $file ]] && return
    draft=$(mktemp "$file.XXXXXX")
    "$@" >"$draft"
    ln "$draft" "$file" 2>/dev/null || [[ -s $file ]] || die "cannot write $file"
    rm -f "$draft"
}
secret() { printf '%s' "$(<"$SECRETS/$1")"; }

# ---------------------------------------------------------------- ports

declare -A PORT_DEFAULT=([PG]=15432 [REDIS]=16379 [KAFKA]=19092 [KAFKA_CONTROLLER]=19093 [SINK]=18080 [ADMIN]=9464 [API]=18081 [API_ADMIN]=9463)
declare -A PORT=()

# The variable wins, then what the stack was last started with, then the default.
ports_load() {
    local name variable value
    for name in "${!PORT_DEFAULT[@]}"; do
        variable=LOCAL_${name}_PORT
        value=${!variable:-}
        if [[ -z $value && -r $LOCAL_DIR/ports/$name ]]; then
            value=$(<"$LOCAL_DIR/ports/$name")
        fi
        value=${value:-${PORT_DEFAULT[$name]}}
        if [[ ! $value =~ ^[1-9][0-9]{0,4}$ ]] || ((value > 65535)); then
            die "$variable=$value is not a port (1 to 65535)"
        fi
        PORT[$name]=$value
    done
}
port_record() { printf '%s\n' "${PORT[$1]}" >"$LOCAL_DIR/ports/$1"; }
port_recorded() { [[ ! -r $LOCAL_DIR/ports/$1 ]] || [[ $(<"$LOCAL_DIR/ports/$1") == "${PORT[$1]}" ]]; }

# Somebody listens on 127.0.0.1:PORT, on 0.0.0.0 or on any IPv6 address that covers it.
port_taken() {
    local hex
    printf -v hex '%04X' "$1"
    awk -v port="$hex" '
        $4 != "0A" { next }
        { split($2, at, ":") }
        at[2] == port && at[1] ~ /^(0100007F|0+|0+FFFF00000100007F)$/ { hit = 1 }
        END { exit !hit }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
}
# port_claim PORT VARIABLE WHAT
port_claim() {
    if port_taken "$1"; then
        die "port $1 for $3 is taken by another program; set $2 to a free one"
    fi
}

# ---------------------------------------------------------------- addresses

database_url() { printf 'postgresql://netrecon:%s@127.0.0.1:%s/netrecon' "$(secret postgres)" "${PORT[PG]}"; }
admin_database_url() { printf 'postgresql://postgres:%s@127.0.0.1:%s/postgres' "$(secret postgres-admin)" "${PORT[PG]}"; }
redis_url() { printf 'redis://:%s@127.0.0.1:%s/0' "$(secret redis)" "${PORT[REDIS]}"; }
api_url() { printf 'http://127.0.0.1:%s' "${PORT[API]}"; }
sink_url() { printf 'http://127.0.0.1:%s' "${PORT[SINK]}"; }
kafka_mode() { if [[ -r $RUN/kafka.mode ]]; then cat "$RUN/kafka.mode"; else echo real; fi; }
# The mock brokers choose their own port; it is known once they run.
kafka_bootstrap() {
    if [[ $(kafka_mode) == mock && -r $RUN/kafka.bootstrap ]]; then
        cat "$RUN/kafka.bootstrap"
    else
        printf '127.0.0.1:%s' "${PORT[KAFKA]}"
    fi
}
admin_port() { printf '%s' $((PORT[ADMIN] + $1 - 1)); } # of worker-N
psql_demo() { PGCONNECT_TIMEOUT=5 psql -X -q -v ON_ERROR_STOP=1 "$@" "$(database_url)"; }

# ---------------------------------------------------------------- waiting

now_ms() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# wait_until SECONDS COMMAND...: polls until COMMAND succeeds; false at the deadline.
wait_until() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        (($(now_ms) < deadline)) || return 1
        sleep 0.05
    done
}

# http_status PORT PATH: the status code of GET on 127.0.0.1, "" when nobody answers; needs no curl.
http_status() {
    local protocol='' code='' rest=''
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 0
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&3
    # shellcheck disable=SC2034 # the words around the code have to go somewhere
    read -r -t 2 protocol code rest <&3 2>/dev/null || true
    exec 3>&-
    printf '%s' "$code"
}

# http_body PORT PATH
http_body() {
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&3
    timeout 5 sed '1,/^\r*$/d' <&3 2>/dev/null
    exec 3>&-
}

# http_post PORT PATH BODY: prints the answer's body.
http_post() {
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s' "$2" "${#3}" "$3" >&3
    timeout 5 sed '1,/^\r*$/d' <&3 2>/dev/null
    exec 3>&-
}

ports_load
