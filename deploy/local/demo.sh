# shellcheck shell=bash
# The demo's contents: a tenant, three webhooks on the demo receiver, and what they must receive; and a fourth one,
# flaky, whose receiver fails each delivery once, so that a retry can be watched. All of it is made through the REST API,
# and found again by its description, so that running it again changes nothing. Used by up, publish and status.

DEMO_WEBHOOKS=(everything some alerts)

# The id that the API gave it; nothing when it is not there.
demo_webhook_id() {
    psql_demo -At <<<"SELECT id FROM webhooks WHERE tenant_id = '$DEMO_TENANT' AND description = 'demo: $1'
        AND deleted_at IS NULL ORDER BY created_at LIMIT 1"
}
demo_patterns() {
    case $1 in
        everything) echo '*' ;;
        some) echo 'scan.completed,cve.matched,backup.failed' ;;
        alerts) echo 'alert.*' ;;
        flaky) echo 'backup.failed' ;;
    esac
}
demo_secret() { if [[ $1 == everything ]]; then echo demo-whsec; else echo demo-plain; fi; }
demo_url() { printf '%s/demo/%s%s' "$(sink_url)" "$1" "$([[ $1 != flaky ]] || echo '?fail_first=1')"; }

# demo_wants WEBHOOK TYPE
demo_wants() {
    local pattern patterns
    IFS=, read -ra patterns <<<"$(demo_patterns "$1")"
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053 # the right side is a pattern: alert.* and * mean here what they mean there
        [[ $2 != $pattern ]] || return 0
    done
    return 1
}

# demo_jwt: a token as the gateway would pass it on, for an hour.
demo_jwt() {
    /usr/bin/python3 - "$DEMO_TENANT" "$SECRETS/jwt" <<'PYTHON'
import base64, hashlib, hmac, json, sys, time
part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
claims = {"sub": "demo", "tenant_id": sys.argv[1], "exp": int(time.time()) + 3600}
text = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "typ": "JWT"}, claims))
print((text + b"." + part(hmac.new(open(sys.argv[2], "rb").read(), text, hashlib.sha256).digest())).decode())
PYTHON
}

# demo_api METHOD PATH [JSON]: prints the answer; false unless the API says 2xx.
demo_api() {
    local body=()
    (($# < 3)) || body=(-H 'Content-Type: application/json' --data-binary @-)
    printf '%s' "${3:-}" | curl -sS --fail-with-body --max-time 20 --noproxy '*' -X "$1" -H @"$SECRETS/demo-api-header" \
        "${body[@]}" "$(api_url)/api/v1/integrations/webhooks$2"
}

# demo_credentials: the account service's part (a tenant), and an API key from the operator's command.
demo_credentials() {
    psql_demo <<<"INSERT INTO tenants (id, name, owner_email) VALUES ('$DEMO_TENANT', 'Demo', 'owner@example.com')
        ON CONFLICT DO NOTHING"
    if [[ ! -s $SECRETS/demo-api-key ]]; then
        (api_environment && "$(api_program)" keys create --tenant "$DEMO_TENANT" --name demo) >"$LOCAL_DIR/tmp/api-key" 2>"$LOGS/keys.log" ||
            die "no API key could be made: $(tail -n 1 "$LOGS/keys.log")"
        mv "$LOCAL_DIR/tmp/api-key" "$SECRETS/demo-api-key"
    fi
    printf 'X-API-Key: %s\n' "$(secret demo-api-key)" >"$SECRETS/demo-api-header"
}

# demo_seed: a webhook that is there becomes again what the demo begins with, whatever was tried with it since.
demo_seed() {
    local name id json answer
    demo_credentials
    for name in "${DEMO_WEBHOOKS[@]}" flaky; do
        id=$(demo_webhook_id "$name")
        json=$(printf '"url": "%s", "events": ["%s"], "active": true' "$(demo_url "$name")" "$(demo_patterns "$name" | sed 's/,/", "/g')")
        if [[ -n $id ]]; then
            answer=$(demo_api PATCH "/$id" "{$json}")
        else
            answer=$(demo_api POST '' "{$json, \"description\": \"demo: $name\", \"secret\": \"$(secret "$(demo_secret "$name")")\"}")
        fi || die "the API did not take the demo webhook $name: $answer"
    done
}

demo_types() {
    local file
    for file in "$root"/schema/events/samples/*.json; do
        basename "$file" .json
    done
}

# demo_produce ACKED_FILE EVENT TENANT COUNT DATA: returns when the broker has acknowledged every event; their ids are
# then in ACKED_FILE.
demo_produce() {
    local acked=$1 event=$2 tenant=$3 count=$4 data=$5 arguments
    if [[ $event == all ]]; then
        count=$((count * $(demo_types | wc -l)))
    fi
    arguments=(--brokers "$(kafka_bootstrap)" --topic "$TOPIC" --tenant "$tenant" --event "$event" --count "$count" --wait --acked "$acked")
    if [[ -n $data ]]; then
        arguments+=(--data "$data")
    else
        arguments+=(--samples "$root/schema/events/samples")
    fi
    rm -f "$acked"
    "$LOCAL_BUILD_DIR/tests/produce" "${arguments[@]}" >"$LOGS/produce.log" 2>&1 || {
        tail -n 5 "$LOGS/produce.log" >&2
        die "not every event was acknowledged by Kafka"
    }
}

# demo_expected: "WEBHOOK TYPE" of everything that one event of each type leads to, sorted.
demo_expected() {
    local name type
    for type in $(demo_types); do
        for name in "${DEMO_WEBHOOKS[@]}"; do
            if demo_wants "$name" "$type"; then
                echo "$name $type"
            fi
        done
    done | sort
}

# demo_received ACKED_FILE FROM_BYTE: "WEBHOOK TYPE EVENT_ID PAGE_SIGNATURE STANDARD_SIGNATURE ANSWER" of the ledger's lines
# about the events in ACKED_FILE. The ledger writes its members without blanks, texts as plain ASCII.
demo_received() {
    tail -c "+$2" "$LEDGER" 2>/dev/null | awk '
        function member(name, from, rest) {
            from = index($0, "\"" name "\":")
            if (!from) { return "-" }
            rest = substr($0, from + length(name) + 3)
            sub(/^"/, "", rest)
            return substr(rest, 1, match(rest, /[",}]/) - 1)
        }
        FILENAME != "-" { wanted[$1] = 1; next }
        member("event_id") in wanted {
            path = member("path")
            if (sub(/^\/demo\//, "", path)) {
                print path, member("event"), member("event_id"), member("sig_netrecon"), member("sig_standard"), member("answer")
            }
        }' "$1" -
}

# demo_missing ACKED_FILE FROM_BYTE: what was expected and is not there with both signatures good and a 200.
demo_missing() {
    demo_received "$@" | awk '$4 == "good" && $5 == "good" && $6 == "200" { print $1, $2 }' | sort -u | comm -23 <(demo_expected) -
}
demo_complete() { [[ -z $(demo_missing "$@") ]]; }

# The delivery log has a delivered row for every expected delivery.
demo_logged() {
    local count
    count=$(psql_demo -At <<<"SELECT count(DISTINCT delivery_id) FROM attempts
        WHERE outcome = 'delivered' AND event_id IN ($(demo_sql_list "$1"))")
    ((count >= $(demo_expected | wc -l)))
}
demo_sql_list() { sed "s/.*/'&'/" "$1" | paste -sd ,; }

# demo_prove SECONDS: one event of each type, delivered, verified by the receiver, and in the delivery log; prints the table.
demo_prove() {
    local acked=$LOCAL_DIR/tmp/demo-events from
    from=$(($(stat -c %s "$LEDGER" 2>/dev/null || echo 0) + 1))
    demo_produce "$acked" all "$DEMO_TENANT" 1 ''
    if ! wait_until "$1" demo_complete "$acked" "$from"; then
        warn "not delivered and verified within $1 s (webhook, event type):"
        demo_missing "$acked" "$from" | sed 's/^/  /' >&2
        warn "what the receiver saw of these events (webhook, type, id, both signatures, answer):"
        demo_received "$acked" "$from" | tail -n 20 | sed 's/^/  /' >&2
        demo_explain
    fi
    if ! wait_until 10 demo_logged "$acked"; then
        warn "received, but the delivery log (table attempts) does not have all of it"
        demo_explain
    fi
    demo_table "$acked" "$from"
    if wait_until 5 demo_flaky_failed "$acked"; then
        demo_flaky "$acked"
    fi
}
demo_flaky_failed() { [[ -n $(demo_flaky "$1") ]]; }

demo_explain() {
    local name
    for name in $(worker_names); do
        warn "the end of $LOGS/$name.log:"
        tail -n 8 "$LOGS/$name.log" | cut -c1-600 >&2
    done
    die "the demo's events did not arrive; deploy/local/status shows what runs"
}

# demo_table ACKED_FILE FROM_BYTE: the delivery log beside the receiver's judgement.
demo_table() {
    printf '%s%-18s %-11s %6s %5s  %-15s %s%s\n' "$bold" event webhook status ms 'page signature' 'standard webhooks' "$plain"
    psql_demo -At -F ' ' <<<"SELECT event_id, webhook_id, status_code, response_time_ms FROM attempts
        WHERE outcome = 'delivered' AND event_id IN ($(demo_sql_list "$1"))" |
        awk -v ids="$(for name in "${DEMO_WEBHOOKS[@]}"; do printf '%s=%s ' "$(demo_webhook_id "$name")" "$name"; done)" \
            -v good="${green}good$plain" '
        BEGIN { n = split(ids, pairs, " "); for (i = 1; i <= n; i++) { split(pairs[i], kv, "="); name[kv[1]] = kv[2] } }
        FILENAME == "-" { status[$1, name[$2]] = $3; ms[$1, name[$2]] = $4; next }
        { printf "%-18s %-11s %6s %5s  %s%11s %s\n", $2, $1, status[$3, $1], ms[$3, $1], $4 == "good" ? good : $4, "", $5 == "good" ? good : $5 }
        ' - <(demo_received "$@" | grep -v '^flaky ' | sort -u -k2,2 -k1,1)
}

# demo_flaky ACKED_FILE: what the delivery log says about the receiver that fails once.
demo_flaky() {
    psql_demo -At -F ' ' <<<"SELECT event_type, status_code, to_char(next_attempt_at, 'HH24:MI:SS'),
        ceil(extract(epoch FROM next_attempt_at - now())) FROM attempts WHERE outcome = 'failed'
        AND webhook_id = '$(demo_webhook_id flaky)' AND event_id IN ($(demo_sql_list "$1"))" |
        awk '{ printf "%-18s %-11s %6s        attempt 2 follows at %s, in %d s: deploy/local/status shows it recovered then\n", $1, "flaky", $2, $3, $4 }'
}

# demo_publish EVENT TENANT COUNT DATA
demo_publish() {
    local acked n
    if [[ $1 != all && -z $4 && ! -e $root/schema/events/samples/$1.json ]]; then
        die "there is no sample of '$1': give --data, or one of: all $(demo_types | paste -sd ' ')"
    fi
    [[ $1 =~ ^[a-z0-9_.]+$ ]] || die "an event type has lower-case letters, digits, _ and dots only: $1"
    acked=$(mktemp "$LOCAL_DIR/tmp/published.XXXXXX")
    # shellcheck disable=SC2064 # the name of now
    trap "rm -f '$acked'" EXIT
    demo_produce "$acked" "$@"
    n=$(wc -l <"$acked")
    if ((n > 10)); then
        say "$n events acknowledged by Kafka"
    else
        cat "$acked"
    fi
}
