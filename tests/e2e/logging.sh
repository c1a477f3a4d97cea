#!/bin/sh
# What the log of a real session holds, and what it does not: no prompt, answer, feedback or key below trace, and the id
# of the request in each line about one. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model
need_speed

trace=0af7651916cd43dd8448eb211c80319c

session()
{
    jq -n '{lora_id: "m/one"}' | post /v1/lora/init >/dev/null || return 1
    ask m/one "Say MARKPROMPT and MARKPROMPT" 12 | curl -sS -D "$work/headers" -H 'Content-Type: application/json' \
        -H 'Authorization: Bearer MARKKEY' -H 'X-Request-Id: my-own.id_1' \
        -H "traceparent: 00-$trace-b7ad6b7169203331-01" --data-binary @- "$url/v1/chat/completions" >"$work/answer" || return 1
    jq -e .choices "$work/answer" >/dev/null || return 1
    jq '{requests: [{lora_id: "m/one", completion_id: .id, prompt: "Say MARKPROMPT and MARKPROMPT",
        response: .choices[0].message.content, feedback: "MARKFEEDBACK is what I want"}]}' "$work/answer" |
        post /v1/feedback | jq -e '.status == "ok"' >/dev/null || return 1
    printf '{"messages": "MARKPROMPT"}' | post /v1/chat/completions >/dev/null
    printf 'MARKPROMPT' | post /v1/chat/completions >/dev/null
    jq -n '{requests: [{lora_id: "m/none", prompt: "p", response: "r", feedback: "MARKFEEDBACK"}]}' |
        curl -sS -H 'Content-Type: application/json' -H 'X-Request-Id: refused-1' --data-binary @- "$url/v1/feedback" \
            >/dev/null
    curl -sS "$url/v1/rollouts/MARKPATH" >/dev/null
    curl -sS "$url/v1/adapters?id=MARKQUERY/x" >/dev/null
    curl -sS "$url/nowhere/MARKPATH?key=MARKKEY" >/dev/null
}

# The answer as it was said; short ones could stand in a line by chance.
says_no_secret()
{
    ! grep -E 'MARK(PROMPT|FEEDBACK|KEY|PATH)' "$work/log" || return 1
    said=$(jq -r '.choices[0].message.content' "$work/answer" | head -1)
    [ ${#said} -lt 12 ] || ! grep -F "$said" "$work/log"
}

tells_the_request()
{
    grep -E "debug http: POST /v1/chat/completions 200, [0-9]+ us, span [0-9a-f]{16} \\[request my-own.id_1\\] \\[trace $trace\\]" \
        "$work/log"
}

echoes_the_request()
{
    cat "$work/headers"
    tr -d '\r' <"$work/headers" >"$work/plain"
    grep -qi '^x-request-id: my-own.id_1$' "$work/plain" &&
        grep -qiE "^traceresponse: 00-$trace-[0-9a-f]{16}-01\$" "$work/plain" &&
        ! grep -qi 'b7ad6b7169203331' "$work/plain"
}

# header_of NAME [option of curl…]: of an answer about health.
header_of()
{
    name=$1
    shift
    curl -sS -D - -o /dev/null "$@" "$url/v1/health" | tr -d '\r' | sed -n "s/^$name: //Ip"
}

makes_an_id()
{
    header_of X-Request-Id "$@" | grep -xE '[0-9a-f]{32}'
}

a_handlers_line_tells_the_request()
{
    grep -E "warning [a-z]+: .*there is no adapter 'm/none'.* \\[request refused-1\\]" "$work/log"
}

is_json()
{
    jq -es 'length > 1 and all(.[]; has("time", "level", "room", "message"))' "$work/log"
}

: >"$work/log"
mkdir -p "$work/state" "$work/store"
start "$work/state" "$work/store" --set log.level=debug
ok "a session" session
ok "the log holds no prompt, answer, feedback or key" says_no_secret
ok "it tells the request's own id and its trace" tells_the_request
ok "and so does the answer, with a span of our own" echoes_the_request
ok "a line that a handler writes tells the request too" a_handlers_line_tells_the_request
ok "a request without an id gets one" makes_an_id
ok "and one whose id is not sane" makes_an_id -H 'X-Request-Id: a b'
ok "a trace that is not valid is none" equal "$(header_of traceresponse -H "traceparent: 00-$trace-0-01")" ""
ok "it stops" stop "$daemon"
: >"$work/log"
start "$work/state" "$work/store" --set log.level=debug --set log.format=json
ok "it stops again" stop "$daemon"
ok "json on request" is_json
done_testing
