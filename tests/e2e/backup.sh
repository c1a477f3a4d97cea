#!/bin/sh
# A backup that is made while the daemon answers and learns comes back after the records were lost.
# SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model
need_speed

claas()
{
    CLAAS_URL=$url "$build/run-claas" "$@"
}

# Answers without end, one id a line in $work/ids once it is acknowledged.
talk()
{
    while :; do
        ask me/assistant "Hi" 2 | post /v1/chat/completions | jq -r .id >>"$work/ids"
    done
}

learns_without_waiting()
{
    claas adapter create me/assistant >"$work/made" && claas chat --model me/assistant --max-tokens 8 "Who are you?" || return 1
    job=$(claas feedback --async --model me/assistant "Be brief") || return 1
    claas job list | grep "^$job  me/assistant  " && claas job watch "$job" | grep '^state: done$' &&
        equal "$(claas job show "$job" --json | jq -r .version)" 2 || return 1
    ! claas job cancel "$job"
}

backs_up_under_load()
{
    for one in 1 2 3; do
        before=$(wc -l <"$work/ids")
        until [ "$(wc -l <"$work/ids")" -ge $((before + 3)) ]; do sleep 0.1; done
        cp "$work/ids" "$work/promised"
        claas backup --force --state-dir "$work/state" "$work/backup" || return 1
    done
    ! claas backup --state-dir "$work/state" "$work/backup"
}

is_refused_while_it_runs()
{
    ! claas restore --state-dir "$work/state" "$work/backup" 2>"$work/said" && grep "another claas process has it, pid $daemon" "$work/said"
}

comes_back()
{
    stop "$daemon" || return 1
    printf nonsense | dd of="$work/state/state.db" bs=1 seek=20 conv=notrunc 2>/dev/null
    launch "$work/state" "$work/store"
    ended "$daemon" && { echo "it started with a damaged database"; return 1; }
    grep "claas restore" "$work/log" || return 1
    kept=$(claas restore --state-dir "$work/state" "$work/backup") && [ -f "$kept" ]
}

has_all()
{
    while read -r id; do
        equal "$(status_of "/v1/rollouts/$id")" 200 || return 1
    done <"$work/promised"
    equal "$(claas job show "$job" --json | jq -r .state)" "done" && equal "$(head_of me/assistant)" 2
}

: >"$work/log"
: >"$work/ids"
mkdir -p "$work/state" "$work/store"
start "$work/state" "$work/store"
ok "feedback need not be waited for" learns_without_waiting
talk &
talker=$!
daemons="$daemons $talker"
ok "backups while it answers" backs_up_under_load
ok "no restore while it runs" is_refused_while_it_runs
kill "$talker"
ended "$talker"
ok "a backup takes the place of a damaged database" comes_back
start "$work/state" "$work/store"
ok "all that was acknowledged before it is there" has_all
stop "$daemon"
done_testing
