#!/bin/sh
# The sweep of claasd: it comes by itself, again and again, spares the young, and is in nobody's way, neither of requests
# nor of the end. A daemon without an engine, so no model is needed. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"

if ! command -v curl >/dev/null; then
    echo "1..0 # SKIP needs curl"
    exit 0
fi

# until_ok COMMAND…: until it succeeds, half a minute at most.
until_ok()
{
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -le 300 ] || { echo "waited in vain for: $*"; return 1; }
        sleep 0.1
    done
}

absent()
{
    [ ! -e "$1" ]
}

is_healthy()
{
    CLAAS_URL=http://127.0.0.1:$(cat "$work/state/claasd.port" 2>/dev/null)
    export CLAAS_URL
    "$build/run-claas" health >"$work/health" 2>&1
}

# start SWEEP_EVERY [PLUGIN]: claasd in the background, answering.
start()
{
    cat >"$work/claasd.yaml" <<YAML
listen: 127.0.0.1:0
state_dir: $work/state
storage:
  plugin: ${2:-fs}
  root: $work/store
retention:
  grace: 1h
  sweep_every: $1
YAML
    rm -f "$work/state/claasd.port"
    "$build/run-claasd" -c "$work/claasd.yaml" 2>>"$work/log" &
    daemon=$!
    daemons="$daemons $daemon"
    if ! until_ok is_healthy; then
        echo "Bail out! claasd did not start"
        sed 's/^/# /' "$work/log" "$work/health"
        exit 1
    fi
}

# Contents that nothing needs, $1 long ago; their path.
orphan()
{
    digest=$(printf '%s' "$2" | sha256sum | cut -c 1-64)
    dir=$work/store/blobs/$(printf '%s' "$digest" | cut -c 1-2)
    mkdir -p "$dir"
    printf '%s' "$2" >"$dir/$digest"
    touch -d "$1 ago" "$dir/$digest"
    echo "$dir/$digest"
}

# SIGTERM ends it, with status 0; ten seconds are for slow machines.
it_stops()
{
    kill -TERM "$daemon"
    tries=0
    while kill -0 "$daemon" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -le 100 ] || { echo "it has not stopped after 10 s"; return 1; }
        sleep 0.1
    done
    ended "$daemon"
    status=$?
    [ $status = 0 ] || { echo "it ended with status $status"; return 1; }
}

a_running_sweep_is_in_nobodys_way()
{
    until_ok test -e "$CLAAS_SLOWFS" || return 1
    is_healthy || { cat "$work/health"; return 1; }
    "$build/run-claas" adapter list || return 1
    [ -e "$CLAAS_SLOWFS" ] || { echo "the sweep was over before the requests were"; return 1; }
}

metric()
{
    said=$(curl -s "$CLAAS_URL/metrics" | grep "^$1 ")
    [ "$said" = "$1 $2" ] || { echo "said: $said"; return 1; }
}

says_nothing_of_sweeps()
{
    ! grep -i sweep "$work/log"
}

mkdir -p "$work/store"
: >"$work/log"

old=$(orphan "2 hours" old)
young=$(orphan "2 minutes" young)
start 300ms
ok "contents that nothing needs are swept by themselves" until_ok absent "$old"
ok "younger ones are not" test -e "$young"
old=$(orphan "2 hours" older)
ok "it sweeps again" until_ok absent "$old"
ok "what was swept is told" grep -q "swept 1 contents" "$work/log"
ok "and counted" metric claas_swept_contents_total 2
ok "with its bytes" metric claas_swept_bytes_total 8
ok "it stops" it_stops

CLAAS_PLUGIN_PATH=$build/tests/e2e/.libs
CLAAS_SLOWFS=$work/listing
export CLAAS_PLUGIN_PATH CLAAS_SLOWFS
: >"$work/log"
start 300ms slowfs
ok "requests are answered during a sweep" a_running_sweep_is_in_nobodys_way
ok "it stops in the middle of a sweep" it_stops
ok "which is no failure" says_nothing_of_sweeps
rm -f "$CLAAS_SLOWFS"
unset CLAAS_PLUGIN_PATH CLAAS_SLOWFS

old=$(orphan "2 hours" oldest)
start 0
sleep 1
ok "with 0 it never sweeps" test -e "$old"
ok "and it stops all the same" it_stops

start 1h
ok "the first sweep does not wait for the second one's time" until_ok absent "$old"
ok "and that daemon stops too" it_stops
done_testing
