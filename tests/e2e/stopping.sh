#!/bin/sh
# Answers in flight while the daemon reloads and stops: they end whole within the limit, and are cancelled behind it or by
# a second signal; the daemon leaves with 0 all the same. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model
need_speed

# begin NAME TOKENS: an answer that streams into $work/NAME, begun when this returns. A count does not end by itself.
begin()
{
    jq -n --argjson n "$2" '{prompt: "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", temperature: 0, max_tokens: $n, stream: true}' |
        curl -sN --max-time 120 -H 'Content-Type: application/json' --data-binary @- "$url/v1/completions" \
            >"$work/$1" 2>/dev/null &
    client=$!
    tries=0
    until [ "$(grep -c '"text":' "$work/$1")" -ge 3 ]; do
        tries=$((tries + 1))
        [ $tries -le 300 ] || { echo "no answer began"; cat "$work/$1"; return 1; }
        sleep 0.05
    done
    ! is_done "$1" || { echo "it was over before the test began"; return 1; }
}

is_done()
{
    grep -q '^data: \[DONE\]$' "$work/$1"
}

whole()
{
    wait "$client"
    is_done "$1" && grep -q '"finish_reason":"\(length\|stop\)"' "$work/$1" && ! grep -q '"error":' "$work/$1" && return 0
    tail -3 "$work/$1"
    return 1
}

reloads_do_not_disturb()
{
    begin reloaded 150 || return 1
    for one in 1 2 3; do
        kill -HUP "$daemon"
        sleep 0.1
    done
    is_done reloaded && { echo "it was over before the reloads were"; return 1; }
    whole reloaded && equal "$(grep -c 'info config: reloaded' "$work/log")" 3
}

finishes_what_it_began()
{
    begin finished 150 || return 1
    kill "$daemon"
    whole finished || return 1
    ended "$daemon"
    equal $? 0
}

# The answer is cut, and said to be.
cancels()
{
    wait "$client"
    grep -q '"error":' "$work/$1" || { tail -3 "$work/$1"; return 1; }
    ended "$daemon"
    equal $? 0 && grep "warning server: $2: what is in progress is cancelled" "$work/log"
}

cancels_behind_the_limit()
{
    begin late 2000 || return 1
    kill "$daemon"
    cancels late "out of time"
}

cancels_at_a_second_signal()
{
    begin hurried 2000 || return 1
    kill "$daemon"
    sleep 0.2
    kill "$daemon"
    cancels hurried "told to hurry"
}

: >"$work/log"
mkdir -p "$work/state" "$work/store"
start "$work/state" "$work/store"
ok "reloads do not disturb an answer" reloads_do_not_disturb
ok "an answer in flight ends whole when the daemon stops" finishes_what_it_began
start "$work/state" "$work/store" --set limits.stop_timeout=300ms
ok "behind the limit it is cancelled" cancels_behind_the_limit
: >"$work/log"
start "$work/state" "$work/store" --set limits.stop_timeout=1h
ok "a second signal cancels at once" cancels_at_a_second_signal
done_testing
