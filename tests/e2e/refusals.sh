#!/bin/sh
# End to end on the real model: what is bad is refused and named, and the newest version stays what it was: requests,
# files damaged in the store, adapters that do not fit, a model cut short, two daemons on one store, a daemon killed.
# Needs what testing.sh says. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model

state=$work/state
store=$work/store
base=HuggingFaceTB/SmolLM2-135M-Instruct
question="Who are you?"

# refuses STATUS TEXT PATH [option of curl…]: that request has that status and an error that says TEXT.
refuses()
{
    wanted=$1
    text=$2
    shift 2
    equal "$(status_of "$@")" "$wanted" && says "$text"
}

refuses_post()
{
    refuses "$1" "$2" "$3" -H 'Content-Type: application/json' --data-binary "$4"
}

make_adapter()
{
    jq -n --arg id "$1" --arg base $base '{lora_id: $id, base_model: $base, lora_r: 8, lora_alpha: 16}' |
        post_status /v1/lora/init
}

# One item of feedback on the last answer of the adapter $1, in a body, edited by the jq program $2.
feedback_body()
{
    ask "$1" "$question" 12 | post /v1/chat/completions >"$work/answer"
    jq --arg id "$1" '{requests: [{lora_id: $id, completion_id: .id, feedback: "Your name is Kuro"}]}' "$work/answer" |
        jq "${2:-.}"
}

learns()
{
    equal "$(feedback_body "$1" | post_status /v1/feedback)" 200 || { cat "$work/refusal"; return 1; }
}

# ---- requests ----

bad_bodies()
{
    hi='{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}'
    printf '{"messages": [{"role": "user", "content": "\377"}]}' >"$work/latin"
    awk 'BEGIN { printf "{\"a\":"; for (i = 0; i < 100000; i++) printf "["; print "" }' >"$work/deep"
    awk 'BEGIN { for (i = 0; i < 9000; i++) printf " fox" }' >"$work/long"
    jq -n --rawfile q "$work/long" '{messages: [{role: "user", content: $q}]}' >"$work/long.chat"
    jq -n --rawfile q "$work/long" '{prompt: $q}' >"$work/long.text"
    jq -n --rawfile q "$work/long" '{model: "", messages: [{role: "user", content: "Hi"}], completion: $q}' \
        >"$work/long.score"
    refuses 415 application/json /v1/chat/completions -H 'Content-Type: text/plain' -d "$hi" &&
        refuses_post 400 UTF-8 /v1/chat/completions "@$work/latin" &&
        refuses_post 422 'nested deeper' /v1/chat/completions "@$work/deep" &&
        refuses_post 422 U+0000 /v1/chat/completions '{"messages": [{"role": "user", "content": "a\u0000b"}]}' &&
        refuses_post 422 8192 /v1/chat/completions "@$work/long.chat" &&
        refuses_post 422 8192 /v1/completions "@$work/long.text" &&
        refuses_post 422 8192 /v1/score "@$work/long.score" &&
        equal "$(printf '%s' "$hi" | post_status /v1/chat/completions)" 200
}

bad_names()
{
    for id in .. ../x a/../b a/..; do
        refuses_post 422 'no adapter id' /v1/lora/init "{\"lora_id\": \"$id\"}" &&
            refuses 422 'no adapter id' "/v1/lora?lora_id=$id" -X DELETE &&
            refuses 422 'no adapter id' "/v1/lora/export?lora_id=$id" &&
            refuses 422 'no adapter id' "/v1/adapters?id=$id" &&
            refuses_post 422 'no adapter id' /v1/adapters/rollback "{\"id\": \"$id\", \"version\": 1}" &&
            refuses_post 422 'no adapter id' /v1/adapters/aliases "{\"alias\": \"$id\", \"id\": \"bad/a\"}" || return 1
    done
    refuses_post 422 'base model' /v1/lora/init "{\"lora_id\": \"$base\"}" &&
        refuses_post 422 'base model' /v1/adapters/aliases "{\"alias\": \"$base\", \"id\": \"bad/a\"}" &&
        refuses 422 'no adapter id' '/v1/lora?lora_id=bad/a%00x' -X DELETE &&
        equal "$(curl -s "$url/v1/lora" | jq -c .loras)" '["bad/a"]'
}

bad_shapes()
{
    refuses_post 422 lora_r /v1/lora/init '{"lora_id": "bad/b", "lora_r": 257}' &&
        refuses_post 422 lora_r /v1/lora/init '{"lora_id": "bad/b", "lora_r": 0}' &&
        refuses_post 422 x_proj /v1/lora/init '{"lora_id": "bad/b", "target_modules": ["q_proj", "x_proj"]}' &&
        refuses_post 422 target_modules /v1/lora/init '{"lora_id": "bad/b", "target_modules": []}' &&
        refuses_post 403 "$base" /v1/lora/init '{"lora_id": "bad/b", "base_model": "Qwen/Qwen3-8B"}' &&
        equal "$(curl -s "$url/v1/lora" | jq -c .loras)" '["bad/a"]'
}

# feedback_refused STATUS TEXT EDIT: feedback edited like that is refused, and there is no new version.
feedback_refused()
{
    was=$(head_of bad/a)
    feedback_body bad/a "$3" >"$work/body"
    refuses_post "$1" "$2" /v1/feedback "@$work/body" && equal "$(head_of bad/a)" "$was"
}

bad_feedback()
{
    plain=$(printf '{"model": "bad/a", "prompt": "1 2 3", "max_tokens": 3}' | post /v1/completions | jq .id)
    feedback_refused 404 'never given' '.requests[0].completion_id = "chatcmpl-none"' &&
        feedback_refused 422 response '.requests[0] |= del(.completion_id) + {prompt: "Hi", response: ""}' &&
        feedback_refused 404 'never given' '.requests[0] |= del(.completion_id) + {prompt: "Hi", response: " "}' &&
        feedback_refused 422 'plain text' ".requests[0].completion_id = $plain" &&
        feedback_refused 422 8192 '.requests[0].feedback = ("be brief, " * 4000)' &&
        feedback_refused 400 'one adapter' '.requests += [.requests[0] | .lora_id = "bad/other"]' &&
        feedback_refused 400 'same training' '.requests += [.requests[0] | .training = {alpha: 0.1}]' &&
        feedback_refused 404 bad/none '.requests[0].lora_id = "bad/none"' &&
        feedback_refused 422 'fixed version' '.requests[0].lora_id = "bad/a@1"'
}

bad_settings()
{
    for setting in 'alpha: 0' 'alpha: 1.1' 'learning_rate: 0' 'learning_rate: -1' 'learning_rate: "x"' 'is_clip: 0.5' \
        'max_grad_norm: -1' 'kl_reg_weight: 2' 'teacher_top_k: 9' 'teacher_top_k: 101' 'steps_per_batch: 0'; do
        feedback_refused 422 "${setting%%:*}" ".requests[0].training = {$setting}" || return 1
    done
}

# ---- damage in the store; the daemon is started anew, since it remembers what it has checked ----

restart()
{
    stop "$daemon"
    start "$state" "$store"
}

log_of()
{
    printf '%s/log/%s/%08d' "$store" "$(printf '%s' "$1" | tr / '~')" "$2"
}

# Path of the blob of the file $3 of version $2 of the adapter $1.
blob_of()
{
    sum=$(jq -r --arg f "$3" '.files[] | select(.name == $f).sha256' "$(log_of "$1" "$2")")
    printf '%s/blobs/%s/%s' "$store" "$(printf '%s' "$sum" | cut -c1-2)" "$sum"
}

# Another byte in the middle of a file.
flip()
{
    chmod u+w "$1"
    middle=$(($(wc -c <"$1") / 2))
    byte=$(od -An -tu1 -j $middle -N 1 "$1")
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\$(printf '%03o' $((byte ^ 1)))" | dd of="$1" bs=1 seek=$middle conv=notrunc 2>/dev/null
}

# The newest version of bad/a cannot answer: status $1, a message that says $2. Others go on.
unusable()
{
    ask bad/a "$question" 4 >"$work/question"
    refuses_post "$1" "$2" /v1/chat/completions "@$work/question" &&
        equal "$(ask bad/fine "$question" 4 | post_status /v1/chat/completions)" 200
}

damaged_blob()
{
    learns bad/a || return 1
    was=$(head_of bad/a)
    feedback_body bad/a >"$work/body" # asked while all is well
    blob=$(blob_of bad/a "$was" adapter_model.safetensors)
    flip "$blob"
    restart
    refuses_post 500 "$(basename "$blob")" /v1/feedback "@$work/body" && equal "$(head_of bad/a)" "$was" &&
        unusable 500 "$(basename "$blob")" &&
        refuses 500 "$(basename "$blob")" '/v1/lora/export?lora_id=bad/a' &&
        equal "$(curl -s "$url/health" | jq -r .status)" degraded || return 1
    printf '{"id": "bad/a", "version": 1}' | post /v1/adapters/rollback >/dev/null
    equal "$(head_of bad/a)" $((was + 1)) &&
        refuses_post 500 "$(basename "$blob")" /v1/adapters/rollback "{\"id\": \"bad/a\", \"version\": $was}" &&
        equal "$(head_of bad/a)" $((was + 1)) && learns bad/a
}

damaged_log()
{
    learns bad/a || return 1
    was=$(head_of bad/a)
    feedback_body bad/a >"$work/body"
    entry=$(log_of bad/a "$was")
    cp "$entry" "$work/entry"
    chmod u+w "$entry"
    head -c 100 "$work/entry" >"$entry"
    restart
    refuses_post 500 "$(basename "$entry")" /v1/feedback "@$work/body" &&
        unusable 500 "$(basename "$entry")" &&
        refuses_post 500 "$(basename "$entry")" /v1/adapters/rollback '{"id": "bad/a", "version": 1}' &&
        refuses_post 500 "$(basename "$entry")" /v1/lora/init '{"lora_id": "bad/a"}' &&
        equal "$(find "$store/log/bad~a" -type f | wc -l)" "$was" || return 1
    cp "$work/entry" "$entry"
    restart
    equal "$(head_of bad/a)" "$was" && learns bad/a
}

# ---- adapters that somebody else wrote into the store: digests right, contents wrong ----

# A new version of bad/a with the jq program $1 done to its adapter_config.json, and $2 to its entry.
foreign_version()
{
    was=$(head_of bad/a)
    jq -c "$1" "$(blob_of bad/a "$was" adapter_config.json)" >"$work/config"
    sum=$(sha256sum <"$work/config" | cut -d' ' -f1)
    mkdir -p "$store/blobs/$(printf '%s' "$sum" | cut -c1-2)"
    cp "$work/config" "$store/blobs/$(printf '%s' "$sum" | cut -c1-2)/$sum"
    jq -c --arg sum "$sum" --argjson bytes "$(wc -c <"$work/config")" \
        --arg previous "$(sha256sum <"$(log_of bad/a "$was")" | cut -d' ' -f1)" \
        '.n += 1 | .kind = "import" | .job = "foreign" | .previous = $previous |
        (.files[] | select(.name == "adapter_config.json")) |= (.sha256 = $sum | .bytes = $bytes) | '"$2" \
        "$(log_of bad/a "$was")" >"$(log_of bad/a $((was + 1)))"
}

# misfit STATUS TEXT EDIT EDIT: such a version is refused, by a message that says TEXT, and nothing is built on it. Until
# somebody goes back to the one before, that one answers, or after a restart none.
misfit()
{
    feedback_body bad/a >"$work/body"
    foreign_version "$3" "$4"
    refuses_post "$1" "$2" /v1/feedback "@$work/body" && equal "$(head_of bad/a)" $((was + 1)) &&
        equal "$(ask bad/a "$question" 4 | post /v1/chat/completions | jq .claas.version)" "$was" || return 1
    restart
    unusable "$1" "$2" || return 1
    printf '{"id": "bad/a", "version": %d}' "$was" | post /v1/adapters/rollback >/dev/null
    equal "$(head_of bad/a)" $((was + 2)) && learns bad/a
}

# ---- the start ----

# Told by the engine once it is open: the daemon ends, with the status of a bad configuration.
setting_unknown()
{
    mkdir "$work/unknown"
    launch "$work/unknown" "$store" --set training.sharpness=3
    ended "$daemon"
    rc=$?
    daemon=$first
    equal $rc 6 && grep -q "unknown key 'sharpness' in training" "$work/log"
}

model_cut_short()
{
    head -c 1000000 "$CLAAS_TEST_MODEL" >"$work/short.gguf"
    launch "$work/other" "$work/other-store" --set "engine.model=$work/short.gguf"
    ended "$daemon"
    rc=$?
    daemon=$first
    [ $rc != 0 ] && tail -3 "$work/log" | grep -q 'short.gguf'
}

one_state_one_daemon()
{
    launch "$state" "$store"
    ended "$daemon"
    rc=$?
    daemon=$first
    [ $rc != 0 ] && tail -3 "$work/log" | grep -q "$state"
}

# ---- two daemons on one store ----

# Every entry names the digest of the one before it.
log_is_a_chain()
{
    previous=null
    for entry in "$store/log/bad~a"/*; do
        equal "$(jq -c .previous "$entry")" "$previous" || { echo "$entry"; return 1; }
        previous=\"$(sha256sum <"$entry" | cut -d' ' -f1)\"
    done
}

# train_at URL NAME: three steps there, with files of that name.
train_at()
{
    for i in 1 2 3; do
        ask bad/a "$question" 12 | curl -sS -H 'Content-Type: application/json' --data-binary @- \
            "$1/v1/chat/completions" >"$work/$2.answer"
        jq '{requests: [{lora_id: "bad/a", completion_id: .id, feedback: "Your name is Kuro"}]}' "$work/$2.answer" |
            curl -sS --fail-with-body --max-time 300 -H 'Content-Type: application/json' --data-binary @- \
                "$1/v1/feedback" >"$work/$2.step" || { echo "step $i $2"; cat "$work/$2.step"; return 1; }
    done
}

two_daemons()
{
    was=$(head_of bad/a)
    here=$url
    start "$work/second" "$store"
    second=$daemon
    there=$url
    train_at "$here" here &
    one=$!
    train_at "$there" there
    there_failed=$?
    wait $one && [ $there_failed = 0 ] || return 1
    stop $second
    daemon=$first
    url=$here
    equal "$(head_of bad/a)" $((was + 6)) && log_is_a_chain &&
        equal "$(ask bad/a "$question" 4 | post /v1/chat/completions | jq .claas.version)" $((was + 6))
}

# Killed in the middle of a step, the daemon leaves the version before it, its answers, and a store that goes on.
killed_in_a_step()
{
    was=$(head_of bad/a)
    steps=64
    [ -z "${claas_sanitizers:-}" ] || steps=4 # each takes seconds there
    feedback_body bad/a ".requests[0].training = {steps_per_batch: $steps}" >"$work/body"
    curl -s --max-time 60 -H 'Content-Type: application/json' --data-binary "@$work/body" "$url/v1/feedback" \
        >/dev/null 2>&1 &
    step=$!
    sleep 1
    kill -9 "$daemon"
    ended "$daemon" 2>/dev/null
    wait $step
    start "$state" "$store"
    first=$daemon
    for _ in $(seq 900); do # what was accepted is finished by the next daemon, and once
        job=$(curl -s "$url/v1/jobs?limit=1" | jq -r '.jobs[0].state')
        case $job in queued | running | null | '') sleep 0.2 ;; *) break ;; esac
    done
    equal "$job" 'done' && equal "$(head_of bad/a)" $((was + 1)) || return 1
    jq '.requests[0].training = {}' "$work/body" >"$work/again"
    equal "$(post_status /v1/feedback <"$work/again")" 200 && equal "$(head_of bad/a)" $((was + 2)) && log_is_a_chain
}

start "$state" "$store"
ok "an adapter is made" equal "$(make_adapter bad/a)" 200
ok "bodies that are no requests" bad_bodies
ok "names that climb, and other people's" bad_names
ok "ranks and modules that no adapter has" bad_shapes
ok "feedback that cannot be trained" bad_feedback
ok "settings out of bounds" bad_settings
ok "another adapter is made" equal "$(make_adapter bad/fine)" 200
ok "a damaged file is named, and rollback leads past it" damaged_blob
ok "a damaged log entry is named, and nothing is written behind it" damaged_log
ok "a rank that is not that of the tensors" misfit 422 lora_A '.r = 4' .
ok "modules that are not those of the tensors" misfit 422 q_proj '.target_modules -= ["q_proj"]' .
ok "an adapter of another base model" misfit 422 'base model' . '.base = "sha256:00" | .base_name = "other"'
first=$daemon
ok "a model file that is cut short ends the start" model_cut_short
ok "a training setting that nobody knows does so too" setting_unknown
ok "a state directory has one daemon" one_state_one_daemon
ok "two daemons on one store leave one log" two_daemons
ok "a daemon that is killed in a step" killed_in_a_step
done_testing
