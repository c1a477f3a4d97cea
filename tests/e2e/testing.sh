# Helpers of the end-to-end tests, which source this file: TAP, a scratch directory, daemons, requests.
# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# shellcheck disable=SC2034 # used by who sources it

build=${abs_top_builddir:-.}
src=${abs_top_srcdir:-.}
n=0
failures=0

exec 3>&1 # what stops all is told even inside of ok
work=$(mktemp -d "${TMPDIR:-/tmp}/claas-e2e.XXXXXX")
daemons=

# shellcheck disable=SC2317 # called by the trap
cleanup()
{
    for one in $daemons; do
        kill -9 "$one" 2>/dev/null # a test may have found that it does not stop otherwise
        wait "$one" 2>/dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Skips all that follows without CLAAS_TEST_MODEL (./bootstrap model fetches it), curl and jq.
need_model()
{
    if [ -z "${CLAAS_TEST_MODEL:-}" ] || ! command -v jq >/dev/null || ! command -v curl >/dev/null; then
        echo "1..0 # SKIP needs CLAAS_TEST_MODEL, curl and jq"
        exit 0
    fi
}

# Skips all that follows in builds with sanitizers, which take minutes for a step of the real model.
need_speed()
{
    if [ -n "${claas_sanitizers:-}" ]; then
        echo "1..0 # SKIP too slow with sanitizers"
        exit 0
    fi
}

# ok NAME COMMAND…: one TAP line.
ok()
{
    n=$((n + 1))
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        sed 's/^/# /' "$work/out" | tail -15
        [ ! -f "$work/log" ] || tail -15 "$work/log" | sed 's/^/# log: /'
        failures=$((failures + 1))
    fi
}

# The plan, and the status for exit.
done_testing()
{
    echo "1..$n"
    [ $failures = 0 ]
}

# launch STATE_DIR STORE [option…]: claasd in the background, as $daemon.
launch()
{
    launched=$1
    launched_store=$2
    shift 2
    rm -f "$launched/claasd.port"
    "$build/run-claasd" -c "$src/conf/quickstart.yaml" --set listen=127.0.0.1:0 --set "state_dir=$launched" \
        --set "storage.root=$launched_store" --set "engine.model=$CLAAS_TEST_MODEL" "$@" 2>>"$work/log" &
    daemon=$!
    daemons="$daemons $daemon"
}

# The same, and waits until it answers at $url.
start()
{
    launch "$@"
    tries=0
    until [ -s "$launched/claasd.port" ] && url=http://127.0.0.1:$(cat "$launched/claasd.port") &&
        [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/models")" = 200 ]; do
        tries=$((tries + 1))
        if [ $tries -gt 900 ] || ! kill -0 "$daemon" 2>/dev/null; then
            echo "Bail out! claasd did not start" >&3
            tail -20 "$work/log" | sed 's/^/# /' >&3
            exit 1
        fi
        sleep 0.1
    done
}

# ended PID: waits for its end, and returns its status.
ended()
{
    wait "$1"
    set -- "$1" $?
    daemons=$(printf '%s ' "$daemons " | sed "s/ $1 / /") # its number may be somebody else's by now
    return "$2"
}

# stop PID: an orderly end, with its status.
stop()
{
    kill "$1"
    ended "$1"
}

# POST of standard input to the route $1.
post()
{
    curl -sS --max-time 300 -H 'Content-Type: application/json' --data-binary @- "$url$1"
}

# status_of PATH [option of curl…]: the status; the answer is in $work/refusal.
status_of()
{
    path=$1
    shift
    curl -sS --max-time 300 -o "$work/refusal" -w '%{http_code}' "$@" "$url$path"
}

# The same for a POST of standard input.
post_status()
{
    status_of "$1" -H 'Content-Type: application/json' --data-binary @-
}

# A greedy question: to the model $1, saying $2, at most $3 tokens.
ask()
{
    jq -n --arg m "$1" --arg q "$2" --argjson n "$3" \
        '{model: $m, messages: [{role: "user", content: $q}], temperature: 0, max_tokens: $n}'
}

# $1 equals $2, and tells both when not.
equal()
{
    [ "$1" = "$2" ] && return 0
    printf 'got:    %s\nwanted: %s\n' "$1" "$2"
    return 1
}

# The last refusal has both forms of an error, and its message has the text $1.
says()
{
    jq -e --arg t "$1" 'has("detail") and (.error | has("code", "type", "param")) and (.error.message | contains($t))' \
        "$work/refusal" >/dev/null && return 0
    printf 'wanted a refusal that says: %s\ngot: %s\n' "$1" "$(cat "$work/refusal")"
    return 1
}

# Number of the newest version of the adapter $1; null when it cannot be told.
head_of()
{
    curl -s "$url/v1/adapters?id=$1" | jq .version
}
