# shellcheck shell=bash
# Starts, finds and ends processes of this stack; knows nothing about what they do (services/ does).
# A process is ours only if pid, start time and boot id are the recorded ones and its command line
# carries the service's word: a pid that the system has given to somebody else is never signalled.

# shellcheck source-path=SCRIPTDIR source=demo.sh
. "$here/demo.sh"
for file in postgres redis kafka sink worker api; do
    # shellcheck source=/dev/null
    . "$here/services/$file.sh"
done
service_word() { "${1%%-*}_word"; }

START_TIMEOUT=${LOCAL_START_TIMEOUT:-60}
STOP_TIMEOUT=${LOCAL_STOP_TIMEOUT:-40}
LOG_KEEP_BYTES=$((64 * 1024 * 1024)) # a longer log moves to NAME.log.1 at the next start

# process_start_time PID: clock ticks after boot; false for a process that is gone or a zombie.
process_start_time() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] || return 1
    printf '%s' "${fields[19]}"
}

# service_pid NAME: prints the pid if it runs and is ours.
service_pid() {
    local pid start boot now_boot words
    { read -r pid start boot <"$RUN/$1.pid"; } 2>/dev/null || return 1
    read -r now_boot </proc/sys/kernel/random/boot_id
    [[ $boot == "$now_boot" && $(process_start_time "$pid") == "$start" ]] || return 1
    words=$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) || return 1
    # Empty in the instant of exec; then the start time alone has to do.
    [[ -z $words || $words == *"$(service_word "$1")"* ]] || return 1
    printf '%s' "$pid"
}
service_gone() { ! service_pid "$1" >/dev/null; }

# service_lock NAME: one command at a time works on a service; held until the (sub)shell ends.
service_lock() {
    exec 9>"$RUN/$1.lock"
    flock -w 300 9 || die "another command has been working on $1 for 5 minutes"
}

# service_spawn NAME COMMAND...
service_spawn() {
    local name=$1 log=$LOGS/$1.log
    shift
    rm -f "$RUN/$name.pid" "$RUN/$name.exit"
    if [[ -f $log ]] && (($(stat -c %s "$log") > LOG_KEEP_BYTES)); then
        mv "$log" "$log.1"
    fi
    # From / because the caller's folder may be closed to the user postgres; 9 is the lock.
    (cd / && exec setsid "$here/supervisor" "$RUN" "$name" "$@" </dev/null >>"$log" 2>&1 9>&-) &
    wait_until 10 test -e "$RUN/$name.pid" -o -e "$RUN/$name.exit" || die "$name did not start; see $log"
}

# service_await NAME: until it is ready, or it died, or the deadline.
service_await() {
    local name=$1 kind=${1%%-*} deadline=$(($(now_ms) + START_TIMEOUT * 1000))
    until "${kind}_ready" "$name"; do
        if service_gone "$name"; then
            service_complain "$name" "ended with status $(service_exit "$name") while starting"
        elif (($(now_ms) > deadline)); then
            service_complain "$name" "was not ready after $START_TIMEOUT s"
        fi
        sleep 0.05
    done
}
service_complain() {
    warn "$1 $2; the end of $LOGS/$1.log:"
    tail -n 15 "$LOGS/$1.log" >&2 || true
    exit 1
}

# The status is written by the supervisor right after the process ended.
service_exit() {
    if wait_until 3 test -e "$RUN/$1.exit"; then
        cat "$RUN/$1.exit"
    else
        echo unknown
    fi
}

# service_stop NAME: by its polite signal, by SIGKILL after the deadline. Prints how it ended; false
# unless that was the expected status.
service_stop() {
    local name=$1 kind=${1%%-*} pid status
    local -A endings=([143]=" (ended by SIGTERM)")
    if ! pid=$(service_pid "$name"); then
        if [[ -e $RUN/$name.pid ]]; then
            say "$name had ended before, exit status $(service_exit "$name")"
        fi
        return 0
    fi
    kill -s "$("${kind}_stop_signal")" "$pid" 2>/dev/null || true
    if ! wait_until "$STOP_TIMEOUT" service_gone "$name"; then
        service_kill "$name"
        warn "$name did not end within $STOP_TIMEOUT s and was killed; see $LOGS/$name.log"
        return 1
    fi
    status=$(service_exit "$name")
    say "$name stopped, exit status $status${endings[$status]:-}"
    [[ " $("${kind}_good_exits") " == *" $status "* ]]
}

# service_kill NAME: kill -9, and of the processes it forked (PostgreSQL's backends), as a power cut would.
service_kill() {
    local name=$1 pid child start
    local -A children=()
    pid=$(service_pid "$name") || return 0
    for child in $(children_of "$pid"); do
        start=$(process_start_time "$child") && children[$child]=$start
    done
    kill -KILL "$pid" 2>/dev/null || true
    for child in "${!children[@]}"; do
        if [[ $(process_start_time "$child") == "${children[$child]}" ]]; then
            kill -KILL "$child" 2>/dev/null || true
        fi
    done
    wait_until 10 service_gone "$name" || die "$name (pid $pid) survives kill -9"
    for child in "${!children[@]}"; do
        wait_until 10 process_changed "$child" "${children[$child]}" || die "$name's child $child survives kill -9"
    done
}
process_changed() { [[ $(process_start_time "$1") != "$2" ]]; }

children_of() {
    local file stat fields
    for file in /proc/[0-9]*/stat; do
        { read -r stat <"$file"; } 2>/dev/null || continue
        read -ra fields <<<"${stat##*) }"
        if [[ ${fields[1]} == "$1" ]]; then
            printf '%s\n' "${stat%% *}"
        fi
    done
}

# program_replaced NAME PROGRAM: it runs, but the file that it was started from has been built anew.
program_replaced() {
    local pid
    pid=$(service_pid "$1") && [[ ! /proc/$pid/exe -ef $2 ]]
}

# Names of all workers that were started and not stopped since, in order.
worker_names() {
    local file
    for file in "$RUN"/worker-*.pid; do
        if [[ -e $file ]]; then
            basename "$file" .pid
        fi
    done | sort -t- -k2n
}
