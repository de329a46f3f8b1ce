# shellcheck shell=bash
# The Debian packages that build, run and demonstrate the project here; used by `up` only. As root missing ones
# are installed, any other user is told the command. No service of the system is started: redis-tools carries the
# Redis server without one, and PostgreSQL's package is kept from making its own cluster.

PACKAGES_BUILD=(cmake ninja-build gcc libc6-dev pkg-config libssl-dev librdkafka-dev libcurl4-openssl-dev libpq-dev
    libevent-dev libjansson-dev libc-ares-dev libhiredis-dev libcmocka-dev python3-yaml)
PACKAGES_RUN=(ca-certificates curl postgresql-15 redis-tools)
PACKAGES_KAFKA=(openjdk-17-jre-headless maven)
CLUSTER_CONF=/etc/postgresql-common/createcluster.conf

packages_wanted() {
    printf '%s\n' "${PACKAGES_BUILD[@]}" "${PACKAGES_RUN[@]}"
    if [[ ${LOCAL_KAFKA:-real} != mock ]]; then
        printf '%s\n' "${PACKAGES_KAFKA[@]}"
    fi
}

packages_missing() {
    local installed
    installed=$(dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' 2>/dev/null |
        awk '$2 == "installed" { sub(/:.*/, "", $1); print $1 }')
    packages_wanted | grep -vxF "$installed" || true
}

packages_ensure() {
    local missing
    command -v dpkg-query >/dev/null || die "this stack is made for Debian 12 and needs there: $(packages_wanted | paste -sd ' ')"
    mapfile -t missing < <(packages_missing)
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        warn "${#missing[@]} packages are missing. Install them as root, then run deploy/local/up again:"
        printf 'apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
        exit 1
    fi
    state_init # for the log
    step "installing ${#missing[@]} Debian packages: ${missing[*]}"
    packages_install "${missing[@]}"
}

packages_apt() {
    if ! DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" \
        </dev/null >>"$LOGS/packages.log" 2>&1; then
        tail -n 15 "$LOGS/packages.log" >&2
        die "apt-get $1 failed; see $LOGS/packages.log"
    fi
}

packages_install() {
    packages_apt update
    if [[ " $* " == *' postgresql-15 '* ]]; then
        packages_apt install --no-install-recommends postgresql-common
        if ! grep -q '^[[:space:]]*create_main_cluster' "$CLUSTER_CONF" 2>/dev/null; then
            # For this run only; the file gets its old contents back whatever happens.
            cp -p "$CLUSTER_CONF" "$LOCAL_DIR/tmp/createcluster.conf"
            trap 'cp -p "$LOCAL_DIR/tmp/createcluster.conf" "$CLUSTER_CONF"' EXIT
            echo 'create_main_cluster = false' >>"$CLUSTER_CONF"
        fi
    fi
    packages_apt install --no-install-recommends "$@"
    if [[ -e $LOCAL_DIR/tmp/createcluster.conf ]]; then
        cp -p "$LOCAL_DIR/tmp/createcluster.conf" "$CLUSTER_CONF"
        trap - EXIT
    fi
}
