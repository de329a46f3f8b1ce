# shellcheck shell=bash
# The demo's receiver: tests/tools/sink on 127.0.0.1, its ledger in LOCAL_DIR/sink. It checks both signatures of
# what it receives, so it is told the demo's secrets (by a control call, not on a command line that all can read).

sink_word() { echo /sink; }
sink_ports() { echo "SINK"; }
sink_stop_signal() { echo TERM; }
sink_good_exits() { echo 0; }
sink_program() { echo "$LOCAL_BUILD_DIR/tests/sink"; }

sink_prepare() {
    [[ -x $(sink_program) ]] || die "$(sink_program) is not built yet: deploy/local/up builds it"
    mkdir -p "$LOCAL_DIR/sink"
}
sink_spawn() {
    ulimit -n "$(ulimit -Hn)"
    service_spawn sink "$(sink_program)" --listen "127.0.0.1:${PORT[SINK]}" --ledger "$LEDGER"
}
sink_ready() { [[ $(http_status "${PORT[SINK]}" /_control/health) == 200 ]]; }
sink_after_ready() {
    local name
    for name in "${DEMO_WEBHOOKS[@]}" flaky; do
        http_post "${PORT[SINK]}" "/_control/secret?prefix=/demo/$name&replace" "$(secret "$(demo_secret "$name")")" |
            grep -q '"ok":true' || die "the receiver did not take the secret of /demo/$name"
    done
}
