#!/bin/sh
# The daemon is killed at named places of a step: in the middle of training, before contents are stored, before and behind
# its entry in the log. After each the feedback is applied exactly once. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model
need_speed

claas()
{
    CLAAS_URL=$url "$build/run-claas" "$@"
}

run()
{
    start "$work/state" "$work/store" --set storage.plugin=slowfs
}

comes()
{
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -le 600 ] || { echo "it does not come: $*"; return 1; }
        sleep 0.05
    done
}

trains()
{
    [ "$(claas job show "$job" --json | jq -r '.state + " " + .phase')" = "running distill" ]
}

# at NAME COMMAND…: a step, killed once COMMAND is true, and the next start.
at()
{
    before=$(head_of me/assistant)
    job=$(claas feedback --async --model me/assistant --steps 8 "Be brief") || return 1
    comes "$@" || return 1
    kill -9 "$daemon"
    ended "$daemon"
    unset CLAAS_STALL
    rm -f "$CLAAS_STALLED"
    run
    claas job watch "$job" | grep '^state: done$' || return 1
    equal "$(head_of me/assistant)" $((before + 1)) &&
        equal "$(claas adapter log me/assistant --json | jq --arg j "$job" '[.versions[] | select(.job == $j)] | length')" 1 &&
        equal "$(claas audit me/assistant --json | jq --arg j "$job" '[.audit[] | select(.job == $j)] | length')" 1
}

stalled_at()
{
    stop "$daemon"
    export CLAAS_STALL="$1"
    run
    at test -e "$CLAAS_STALLED"
}

: >"$work/log"
mkdir -p "$work/state" "$work/store"
CLAAS_STALLED=$work/stalled
CLAAS_PLUGIN_PATH=$build/tests/e2e/.libs:$build/.libs
export CLAAS_STALLED CLAAS_PLUGIN_PATH
run
claas adapter create me/assistant >"$work/made"
claas chat --model me/assistant --max-tokens 8 "Who are you?" >"$work/said"
ok "killed while it trains" at trains
ok "killed before contents are stored" stalled_at "before blobs/"
ok "killed before the entry of the log" stalled_at "before log/"
ok "killed behind the entry of the log" stalled_at "behind log/"
stop "$daemon"
done_testing
