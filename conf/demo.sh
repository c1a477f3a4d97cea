#!/bin/sh
# The main job, shown: a model answers, a user says what was wrong, one step trains an adapter, the next answer is better.
# Usage: demo.sh BUILD_DIR MODEL_FILE. Leaves nothing running and nothing behind. SPDX-License-Identifier: MIT
set -eu

build=$1
model=$2
here=$(cd "$(dirname "$0")" && pwd)
steps=${DEMO_STEPS:-10}
rate=${DEMO_LEARNING_RATE:-1e-3} # high: so that a handful of steps shows
updates=${DEMO_UPDATES:-2}      # made on each piece of feedback
adapter=demo/kuro
feedback="Your name is Kuro, always introduce yourself as Kuro"
state=$(mktemp -d "${TMPDIR:-/tmp}/claas-demo.XXXXXX")
daemon=

# shellcheck disable=SC2317 # called by the traps
cleanup()
{
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

die()
{
    printf 'demo: %s\n' "$*" >&2
    [ -f "$state/claasd.log" ] && tail -20 "$state/claasd.log" >&2
    exit 1
}

# POST body on standard input to route $1; the answer on standard output.
post()
{
    curl -sS --fail-with-body --max-time 300 -H 'Content-Type: application/json' --data-binary @- "$url$1" ||
        die "POST $1 failed"
}

# Asks the model $1 the question $2, greedily; prints the whole answer as JSON.
ask()
{
    jq -n --arg m "$1" --arg q "$2" \
        '{model: $m, messages: [{role: "user", content: $q}], temperature: 0, max_tokens: 64}' |
        post /v1/chat/completions
}

# Log-probability of the answer $2 by model $1 to "Who are you?".
score()
{
    jq -n --arg m "$1" --arg c "$2" \
        '{model: $m, messages: [{role: "user", content: "Who are you?"}], completion: $c}' |
        post /v1/score | jq -e .logprob_sum
}

# How much likelier model $1 finds a Kuro answer than the old one.
margin()
{
    kuro=$(score "$1" "I am Kuro, nice to meet you.")
    plain=$(score "$1" "$old")
    jq -n "($kuro) - ($plain)"
}

# Milliseconds from now until the first streamed token of a new question to the adapter.
now_ms()
{
    echo $(($(date +%s%N) / 1000000))
}

first_token()
{
    jq -n --arg m "$adapter" '{model: $m, stream: true, temperature: 0, max_tokens: 8,
        messages: [{role: "user", content: "Who are you?"}]}' |
        curl -sSN --max-time 60 -H 'Content-Type: application/json' --data-binary @- "$url/v1/chat/completions" 2>/dev/null |
        while IFS= read -r line; do
            case $line in
            *'"content":"'[!\"]*)
                now_ms
                break
                ;;
            esac
        done
}

progress()
{
    if [ -t 1 ]; then
        printf '\r  step %d of %d  %s' "$1" "$steps" "$2"
    else
        printf '  step %d of %d  %s\n' "$1" "$steps" "$2"
    fi
}

"$build/run-claasd" -c "$here/quickstart.yaml" --set listen=127.0.0.1:0 --set "state_dir=$state" \
    --set "storage.root=$state/store" --set "engine.model=$model" 2>"$state/claasd.log" &
daemon=$!
tries=0
until [ -s "$state/claasd.port" ] && url=http://127.0.0.1:$(cat "$state/claasd.port") &&
    [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/models")" = 200 ]; do
    kill -0 "$daemon" 2>/dev/null || die "claasd did not start"
    tries=$((tries + 1))
    [ $tries -lt 600 ] || die "claasd was not ready within a minute"
    sleep 0.1
done

printf '%s\n' '{"lora_id": "'$adapter'", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "lora_r": 16, "lora_alpha": 32}' |
    post /v1/lora/init >/dev/null

echo "The model before any feedback:"
answer=$(ask "$adapter" "Who are you?")
old=$(printf '%s' "$answer" | jq -r '.choices[0].message.content')
version_before=$(printf '%s' "$answer" | jq -r '.claas.version')
printf '  > Who are you?\n  %s\n\n' "$old"
margin_before=$(margin "$adapter")

echo "Feedback: \"$feedback\""
i=0
while [ $i -lt "$steps" ]; do
    case $((i % 3)) in
    0) question="Who are you?" ;;
    1) question="What is your name?" ;;
    *) question="Please introduce yourself." ;;
    esac
    answer=$(ask "$adapter" "$question")
    body=$(printf '%s' "$answer" | jq --arg id "$adapter" --arg q "$question" --arg f "$feedback" --argjson lr "$rate" \
        --argjson updates "$updates" \
        '{requests: [{lora_id: $id, completion_id: .id, prompt: $q, response: .choices[0].message.content,
            feedback: $f, training: {learning_rate: $lr, steps_per_batch: $updates}}]}')
    sent=$(now_ms)
    result=$(printf '%s' "$body" | post /v1/feedback)
    i=$((i + 1))
    progress $i "loss $(printf '%s' "$result" | jq -r '.distill_result.metadata.total_loss * 10000 | round / 10000'), \
$(($(now_ms) - sent)) ms"
done
token=$(first_token)
[ -n "$token" ] || die "the updated model streamed nothing"
latency=$((token - sent))
[ -t 1 ] && echo

echo
echo "The model after $steps steps:"
answer=$(ask "$adapter" "Who are you?")
new=$(printf '%s' "$answer" | jq -r '.choices[0].message.content')
version_after=$(printf '%s' "$answer" | jq -r '.claas.version')
printf '  > Who are you?\n  %s\n\n' "$new"
margin_after=$(margin "$adapter")
peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$daemon/status")

printf 'log-probability margin of a Kuro answer over the old one: %.2f before, %.2f after\n' "$margin_before" "$margin_after"
printf 'from the last feedback to the first token of the updated model: %d ms\n' "$latency"
printf 'peak memory of claasd: %d MB\n' $((peak / 1024))
printf 'answered by version %s before, version %s after\n' "$version_before" "$version_after"

rose=$(jq -n "($margin_after) > ($margin_before)")
[ "$rose" = true ] || die "the margin did not rise"
[ "$version_after" -gt "$version_before" ] || die "the second answer did not come from a new version"

cat <<TEXT

To go on by hand:
  $build/run-claasd -c $here/quickstart.yaml --set engine.model=$model &
  $build/run-claas adapter create me/assistant
  $build/run-claas chat --model me/assistant --temperature 0 --max-tokens 64 "Who are you?"
  $build/run-claas feedback --model me/assistant "be brief"
TEXT
