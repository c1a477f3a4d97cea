#!/bin/sh
# Measures claasd from outside, over HTTP, and prints what it found beside what was aimed at. Never fails on a time.
# bench.sh BUILD_DIR [MODEL_FILE]. With TORCH_PYTHON naming a Python that has torch, transformers and peft, peer B runs
# in the same run, rounds interleaved with ours. Needs curl, jq, wrk. SPDX-License-Identifier: MIT
set -eu

build=$1
model=${2:-}
src=$(cd "$(dirname "$0")/../.." && pwd)
rounds=${BENCH_ROUNDS:-5}
state=$(mktemp -d "${TMPDIR:-/tmp}/claas-bench.XXXXXX")
daemon=

# shellcheck disable=SC2317 # called by the trap
cleanup()
{
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; }
    rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

now_ms()
{
    echo $(($(date +%s%N) / 1000000))
}

row()
{
    printf '| %s | %s | %s |\n' "$1" "$2" "$3"
}

memory()
{
    sed -n "s/^$1:[^0-9]*\([0-9]*\) kB/\1/p" "/proc/$daemon/status"
}

start()
{
    rm -f "$state/claasd.port"
    begun=$(now_ms)
    "$build/run-claasd" -c "$1" --set listen=127.0.0.1:0 --set "state_dir=$state" --set "storage.root=$state/store" \
        ${2:+--set} ${2:+"engine.model=$2"} 2>>"$state/log" &
    daemon=$!
    until [ -s "$state/claasd.port" ]; do
        kill -0 $daemon 2>/dev/null || { cat "$state/log" >&2; exit 1; }
        sleep 0.005
    done
    listening=$(($(now_ms) - begun))
    url=http://127.0.0.1:$(cat "$state/claasd.port")
}

stop()
{
    kill $daemon
    wait $daemon || true
    daemon=
}

post()
{
    curl -sS --fail-with-body --max-time 600 -H 'Content-Type: application/json' --data-binary @- "$url$1"
}

# The middle one of the numbers on standard input.
median()
{
    sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

least()
{
    sort -n | head -1
}

most()
{
    sort -n | tail -1
}

bench_bare()
{
    cat >"$state/bare.yaml" <<YAML
listen: 127.0.0.1:0
state_dir: $state
storage:
  plugin: fs
  root: $state/store
YAML
    i=0
    while [ $i -lt "$rounds" ]; do
        start "$state/bare.yaml"
        echo $listening >>"$state/starts"
        i=$((i + 1))
        [ $i -eq "$rounds" ] || stop
    done
    row "start to listening, no engine" "$(median <"$state/starts") ms" "at most 50 ms"
    rate=$(wrk -t2 -c32 -d5s "$url/health" | awk '/Requests\/sec/ { print int($2) }')
    row "GET /health, 32 connections, client on the same cores" "$rate requests/s" "at least 5000"
    row "resident, no engine, after that load" "$(memory VmRSS) kB" "at most 20480 kB"
    stop
}

# A chat body with a prompt of $1 tokens and max_tokens $2; extra words are added until the count is right.
chat_body()
{
    want=$1
    extra=400
    while :; do
        words=$(awk -v n=$extra 'BEGIN { for (i = 0; i < n; i++) printf " fox" }')
        jq -n --arg w "$words" --argjson n "$2" '{model: "bench/a", temperature: 1, seed: 5, max_tokens: $n,
            messages: [{role: "user", content: ("Tell a very long story, with many chapters, about these animals:" + $w)}]}' \
            >"$state/body.json"
        got=$(jq '.max_tokens = 1' "$state/body.json" | post /v1/chat/completions | jq .usage.prompt_tokens)
        [ "$got" = "$want" ] && break
        extra=$((extra + want - got))
    done
}

# An answer of exactly 256 tokens, with its time; another seed when the model stopped early.
answer_of_256()
{
    seed=1
    while :; do
        begun=$(now_ms)
        jq --argjson s $seed '.seed = $s' "$state/body.json" | post /v1/chat/completions >"$state/answer.json"
        took=$(($(now_ms) - begun))
        [ "$(jq .usage.completion_tokens "$state/answer.json")" = 256 ] && break
        seed=$((seed + 1))
    done
}

bench_model()
{
    cat "$model" >/dev/null # into the page cache
    begun=$(now_ms)
    start "$src/conf/quickstart.yaml" "$model"
    until [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/models")" = 200 ]; do sleep 0.01; done
    row "model loaded, from page cache" "$(($(now_ms) - begun)) ms" "at most 1500 ms"
    echo '{"lora_id": "bench/a", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct"}' | post /v1/lora/init >/dev/null
    chat_body 512 256
    i=0
    while [ $i -lt "$rounds" ]; do
        begun=$(now_ms)
        jq '.max_tokens = 1' "$state/body.json" | post /v1/chat/completions >/dev/null
        prefill=$(($(now_ms) - begun))
        answer_of_256
        echo $((255000 / (took - prefill))) >>"$state/decode"
        echo $prefill >>"$state/prefill"
        jq '{requests: [{lora_id: "bench/a", completion_id: .id, prompt: "x", response: .choices[0].message.content,
            feedback: "Be brief, and tell it like a tale from long ago, with a fox who speaks in riddles."}]}' \
            "$state/answer.json" >"$state/feedback.json"
        begun=$(now_ms)
        post /v1/feedback <"$state/feedback.json" >"$state/result.json"
        echo $(($(now_ms) - begun)) >>"$state/step"
        if [ -n "${TORCH_PYTHON:-}" ]; then
            kill -STOP $daemon
            "$TORCH_PYTHON" "$src/tests/bench/step_torch.py" "$model" 512 256 560 2 2>/dev/null | tail -1 >>"$state/peer"
            kill -CONT $daemon
        fi
        i=$((i + 1))
    done
    row "prompt of 512 tokens, with adapter" "$((512000 / $(median <"$state/prefill"))) tokens/s" ""
    row "decode, with adapter (rank 32, all linears)" \
        "$(median <"$state/decode") tokens/s (best round $(most <"$state/decode"))" "at least 60"
    row "one feedback, 512 + 256 tokens, end to end" \
        "$(median <"$state/step") ms (best round $(least <"$state/step"))" "at most 2500 ms"
    row "peak resident after that" "$(memory VmHWM) kB" "at most 1258291 kB"
    if [ -s "$state/peer" ]; then
        peer=$(jq '.seconds * 1000 | round' "$state/peer" | median)
        row "peer B: the same step in PyTorch with a resident model" \
            "$peer ms (best round $(jq '.seconds * 1000 | round' "$state/peer" | least))" ""
        row "ours / peer B, medians" "$(jq -n "$(median <"$state/step") / $peer * 100 | round / 100")" "at most 0.6"
        row "peer B, peak resident" "$(jq .peak_mb "$state/peer" | median) MB" ""
    fi
    stop
}

printf 'claas %s, %s, %s cores, %s\n\n' "$("$build/run-claasd" --version | head -1)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(getconf _NPROCESSORS_ONLN)" "$(date -u +%F)"
echo '| what | measured | aim |'
echo '|---|---|---|'
bench_bare
[ -z "$model" ] || bench_model
