#!/bin/sh
# claasd as daemons of Debian are: what it tells the service manager, sockets it is handed, reload, the lock, the parent's
# end. Without an engine, so no model is needed. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"

if ! command -v curl >/dev/null; then
    echo "1..0 # SKIP needs curl"
    exit 0
fi

# until_ok COMMAND…: until it succeeds, 20 s at most.
until_ok()
{
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -le 200 ] || { echo "waited in vain for: $*"; return 1; }
        sleep 0.1
    done
}

# configure [LINE…]: what differs between the tests below the same store and state.
configure()
{
    {
        printf 'listen: 127.0.0.1:0\nstate_dir: %s/state\nstorage: {plugin: fs, root: %s/store}\n' "$work" "$work"
        printf '%s\n' "$@"
    } >"$work/claasd.yaml"
}

# manage [option of the manager…]: claasd below it, as $daemon.
manage()
{
    rm -f "$work/state/claasd.port"
    : >"$work/log"
    : >"$work/told" # what the one before was told is no news
    "$build/tests/e2e/manager" "$@" "$work/told" "$build/run-claasd" -c "$work/claasd.yaml" 2>>"$work/log" &
    daemon=$!
    daemons="$daemons $daemon"
}

told()
{
    grep -qx -e "$1" "$work/told"
}

how_often()
{
    grep -cx -e "$1" "$work/told"
}

answers()
{
    [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$1/v1/health")" = 200 ]
}

logged()
{
    grep -q -e "$1" "$work/log" && return 0
    cat "$work/log"
    return 1
}

ends_with()
{
    ended "$daemon"
    equal $? "$1"
}

it_is_ready()
{
    until_ok told READY=1 && told 'MAINPID=[0-9]*' && answers "$(cat "$work/state/claasd.port")"
}

# more_than N LINE: the manager has heard the line more often.
more_than()
{
    [ "$(how_often "$2")" -gt "$1" ]
}

reload()
{
    was=$(how_often READY=1)
    kill -HUP "$daemon"
    until_ok more_than "$was" READY=1
}

it_reloads()
{
    reload && told RELOADING=1 && told 'MONOTONIC_USEC=[1-9][0-9]*' && logged "info config: reloaded" &&
        equal "$(metric claas_config_last_reload_successful)" 1
}

requests_are_logged()
{
    answers "$(cat "$work/state/claasd.port")" && until_ok logged "debug http: GET /v1/health 200"
}

# metric NAME: its number.
metric()
{
    curl -s "http://127.0.0.1:$(cat "$work/state/claasd.port")/metrics" | sed -n "s/^$1 //p"
}

it_keeps_the_old_one()
{
    reload && logged "error config: the configuration stays as it was: $work/claasd.yaml:$1" &&
        told "STATUS=the configuration was not reloaded, see the log" && answers "$(cat "$work/state/claasd.port")" &&
        requests_are_logged && equal "$(metric claas_config_last_reload_successful)" 0
}

names_what_is_fixed()
{
    reload && logged "warning config: 'listen' differs, but cannot change while running" &&
        logged "warning config: 'storage.root' differs" && answers "$(cat "$work/state/claasd.port")"
}

it_stops()
{
    kill "$daemon"
    ends_with 0 && told STOPPING=1
}

a_second_one_is_refused()
{
    "$build/run-claasd" -c "$work/claasd.yaml" 2>"$work/second"
    equal $? 8 || return 1
    holder=$(sed -n 's/^MAINPID=//p' "$work/told" | tail -1)
    cat "$work/second"
    grep -q "another claas process has it, pid $holder\$" "$work/second"
}

# The daemon is stopped for a moment, as one that hangs would be.
the_watchdog_barks()
{
    until_ok more_than 2 WATCHDOG=1 || return 1
    holder=$(sed -n 's/^MAINPID=//p' "$work/told" | tail -1)
    kill -STOP "$holder"
    sleep 0.3
    was=$(how_often WATCHDOG=1)
    sleep 0.7
    now=$(how_often WATCHDOG=1)
    kill -CONT "$holder"
    equal "$now" "$was" && until_ok more_than "$was" WATCHDOG=1
}

# A parent that ends at once, and one that is killed.
it_ends_with_its_parent()
{
    # shellcheck disable=SC2016 # for the inner shell
    sh -c '"$1" -c "$2" --exit-with-parent 2>>"$3" & echo $! >"$4"; while :; do sleep 1; done' - "$build/run-claasd" \
        "$work/claasd.yaml" "$work/log" "$work/child" &
    parent=$!
    daemons="$daemons $parent"
    until_ok test -s "$work/state/claasd.port" || return 1
    kill -9 "$parent"
    ended "$parent"
    child=$(cat "$work/child")
    daemons="$daemons $child"
    until_ok test ! -e "$work/state/claasd.port" && until_ok test ! -d "/proc/$child" || return 1
    ended "$child" || true # no child of ours: only so that its number is forgotten
}

# The parent has ended before it is watched: no signal will come.
it_ends_with_a_parent_that_was_quicker()
{
    # shellcheck disable=SC2016 # for the inner shell
    LATE_PRCTL="$work/late" sh -c 'ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 LD_PRELOAD=$5 \
        "$1" -c "$2" --exit-with-parent 2>>"$3" & echo $! >"$4"; while :; do sleep 1; done' - "$build/run-claasd" \
        "$work/claasd.yaml" "$work/log" "$work/child" "$build/tests/e2e/.libs/late_prctl.so" &
    parent=$!
    daemons="$daemons $parent"
    until_ok test -e "$work/late" || return 1
    kill -9 "$parent"
    ended "$parent"
    child=$(cat "$work/child")
    daemons="$daemons $child"
    until_ok test ! -d "/proc/$child" || return 1
    ended "$child" || true
    logged "stopping: the parent process has ended" && test ! -e "$work/state/claasd.port"
}

# What -T prints is a configuration, and the same one: also where an engine that is not open has the settings' table.
print_can_be_read()
{
    configure 'engine: {plugin: cpu, model: /no/model.gguf}' 'training:' '  learning_rate: 2.5e-4'
    "$build/run-claasd" -T -c "$work/claasd.yaml" >"$work/printed.yaml" &&
        "$build/run-claasd" -t -c "$work/printed.yaml" &&
        "$build/run-claasd" -T -c "$work/printed.yaml" >"$work/again.yaml" &&
        cmp "$work/printed.yaml" "$work/again.yaml" && grep -q 'learning_rate": 2.5e-4' "$work/again.yaml"
}

ok "what -T prints can be read" print_can_be_read

mkdir -p "$work/store"
configure
manage
ok "it tells when it is ready, and its pid" it_is_ready
ok "a second one is refused, and told whose the state is" a_second_one_is_refused
configure "log: {level: debug}"
ok "it reloads" it_reloads
ok "and what was read counts" requests_are_logged
configure "log: {level: loud}"
ok "what is wrong is refused with its place" it_keeps_the_old_one 4:14
configure "storage: {plugin: fs}"
ok "and so is a key that is given twice" it_keeps_the_old_one 4:1
printf 'state_dir: %s/state\nstorage: {plugin: fs, root: %s/store, rot: x}\n' "$work" "$work" >"$work/claasd.yaml"
ok "and an option of a plugin" it_keeps_the_old_one 2:
rm "$work/claasd.yaml"
ok "and a file that is gone" it_keeps_the_old_one ""
configure "log: {level: debug}"
sed -i "s/:0$/:1/; s/store}/other}/" "$work/claasd.yaml"
ok "what cannot change is named, and stays" names_what_is_fixed
ok "it stops" it_stops

configure
manage -a -l
ok "it tells an abstract socket too" until_ok told READY=1
ok "it answers on a socket that it is handed" answers "$(cat "$work/told.port")"
ok "and says so" equal "$(cat "$work/state/claasd.port")" "$(cat "$work/told.port")"
ok "and stops" it_stops

manage -d
ok "a socket that does not listen is refused" ends_with 1
ok "and named" logged "cannot use descriptor 3 of LISTEN_FDS: it is not a listening stream socket"

manage -w 400000
ok "it pings as long as it lives, and only then" the_watchdog_barks
ok "and stops at last" it_stops

rm -f "$work/state/claasd.port"
ok "it ends with its parent" it_ends_with_its_parent
ok "and with one that had ended before" it_ends_with_a_parent_that_was_quicker
done_testing
