#!/bin/sh
# End to end on the real model: greedy answers token for token, streaming, scores, feedback, versions, rollback, restart,
# serving during a step. Needs CLAAS_TEST_MODEL (./bootstrap model fetches it), curl and jq. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
need_model
need_speed
state=$work

greedy_is_exact()
{
    line=$1
    answer=$(jq -c '{model: "", messages, temperature: 0, max_tokens: 64}' "$line" | post /v1/chat/completions)
    id=$(printf '%s' "$answer" | jq -r .id)
    curl -s "$url/v1/rollouts/$id" >"$state/rollout"
    equal "$(jq -c .prompt_ids "$state/rollout")" "$(jq -c .prompt_ids "$line")" &&
        equal "$(jq -c .response_ids "$state/rollout")" "$(jq -c .ids "$line")"
}

stream_joins()
{
    whole=$(ask "" "$question" 40 | post /v1/chat/completions | jq -r '.choices[0].message.content')
    ask "" "$question" 40 | jq '.stream = true' | curl -sSN -H 'Content-Type: application/json' --data-binary @- \
        "$url/v1/chat/completions" >"$state/stream"
    joined=$(sed -n 's/^data: {/{/p' "$state/stream" | jq -rj '.choices[0].delta.content // empty')
    reason=$(sed -n 's/^data: {/{/p' "$state/stream" | jq -r '.choices[0].finish_reason // empty' | tail -1)
    [ "$(grep -c '^data: {' "$state/stream")" -gt 5 ] || { echo "not streamed token by token"; return 1; }
    equal "$joined" "$whole" && equal "$reason" length &&
        equal "$(grep '^data' "$state/stream" | tail -1 | tr -d '\r')" 'data: [DONE]'
}

# The pieces' tokens are those of the whole answer, though a stop string holds text back and cuts it in the end.
stream_has_logprobs()
{
    ask "" "$question" 40 | jq '.logprobs = true | .top_logprobs = 2' >"$state/wanted"
    word=$(post /v1/chat/completions <"$state/wanted" | jq -r '.choices[0].message.content' | cut -c 30-36)
    jq --arg w "$word" '.stop = [$w, $w + "~"]' "$state/wanted" >"$state/stopped"
    post /v1/chat/completions <"$state/stopped" | jq -c '.choices[0].logprobs.content[]' >"$state/whole"
    jq '.stream = true' "$state/stopped" | curl -sSN -H 'Content-Type: application/json' --data-binary @- \
        "$url/v1/chat/completions" | sed -n 's/^data: {/{/p' >"$state/stream"
    jq -c '.choices[0].logprobs.content[]?' "$state/stream" >"$state/joined"
    [ -s "$state/whole" ] && cmp "$state/whole" "$state/joined" &&
        jq -sce 'map(.choices[0] | select(.logprobs and (.logprobs.content | map(.token) | add) == .delta.content)) |
            length > 3' "$state/stream"
}

# Existing clients expect one where they give no number.
one_alternative_unless_told()
{
    ask "" "$question" 4 | jq '.logprobs = true' | post /v1/chat/completions >"$state/tops"
    ask "" "$question" 4 | jq '.logprobs = true | .top_logprobs = 0' | post /v1/chat/completions >"$state/no-tops"
    equal "$(jq -c '[.choices[0].logprobs.content[].top_logprobs | length] | unique' "$state/tops")" '[1]' &&
        equal "$(jq -c '[.choices[0].logprobs.content[].top_logprobs | length] | unique' "$state/no-tops")" '[0]'
}

score_agrees()
{
    answer=$(ask e2e/a "What is the capital of France?" 30 | post /v1/chat/completions)
    text=$(printf '%s' "$answer" | jq -r '.choices[0].message.content')
    recorded=$(curl -s "$url/v1/rollouts/$(printf '%s' "$answer" | jq -r .id)" | jq '.logprobs | add')
    scored=$(jq -n --arg c "$text" '{model: "e2e/a", completion: $c,
        messages: [{role: "user", content: "What is the capital of France?"}]}' | post /v1/score | jq .logprob_sum)
    jq -ne "(($recorded) - ($scored)) | fabs < 0.001" || { echo "recorded $recorded, scored $scored"; return 1; }
}

feedback_body()
{
    printf '%s' "$1" | jq --arg q "$question" --argjson t "$2" '{requests: [{lora_id: "e2e/a", prompt: $q,
        response: .choices[0].message.content, feedback: "Your name is Kuro", training: $t}]}'
}

head_version()
{
    head_of e2e/a
}

feedback_makes_a_version()
{
    before=$(head_version)
    answer=$(ask e2e/a "$question" 40 | post /v1/chat/completions)
    result=$(feedback_body "$answer" '{"learning_rate": 0.0005}' | post /v1/feedback)
    equal "$(printf '%s' "$result" | jq -r .status)" ok || { echo "$result"; return 1; }
    after=$(ask e2e/a "$question" 40 | post /v1/chat/completions)
    equal "$(head_version)" $((before + 1)) && equal "$(printf '%s' "$after" | jq .claas.version)" $((before + 1))
}

# refused STATUS TRAINING [edit of the body]: the answer has that status and the version stays.
refused()
{
    before=$(head_version)
    answer=$(ask e2e/a "$question" 10 | post /v1/chat/completions)
    status=$(feedback_body "$answer" "$2" | jq "${3:-.}" | post_status /v1/feedback)
    equal "$status" "$1" || { cat "$state/refusal"; return 1; }
    jq -e '(.error.message | length > 0) and has("detail")' "$state/refusal" && equal "$(head_version)" "$before"
}

rollback_brings_back()
{
    old=$(ask e2e/a@1 "$question" 40 | post /v1/chat/completions | jq -r '.choices[0].message.content')
    before=$(head_version)
    printf '{"id": "e2e/a", "version": 1}' | post /v1/adapters/rollback >"$state/rolled"
    new=$(ask e2e/a "$question" 40 | post /v1/chat/completions)
    equal "$(printf '%s' "$new" | jq -r '.choices[0].message.content')" "$old" &&
        equal "$(printf '%s' "$new" | jq .claas.version)" $((before + 1))
}

serves_during_a_step()
{
    answer=$(ask e2e/a "$question" 60 | post /v1/chat/completions)
    before=$(head_version)
    feedback_body "$answer" '{"steps_per_batch": 12}' | post /v1/feedback >"$state/step" &
    step=$!
    during=0
    while kill -0 $step 2>/dev/null; do
        version=$(ask e2e/a "$question" 8 | post /v1/chat/completions | jq .claas.version)
        [ "$version" = "$before" ] && during=$((during + 1))
    done
    wait $step
    equal "$(jq -r .status "$state/step")" ok || { cat "$state/step"; return 1; }
    [ $during -ge 2 ] || { echo "only $during answers while the step was running"; return 1; }
    equal "$(head_version)" $((before + 1))
}

# A long answer that begins before a step ends goes on with the version it began with; others have the new one already.
one_answer_one_version()
{
    answer=$(ask e2e/a "$question" 40 | post /v1/chat/completions)
    before=$(head_version)
    feedback_body "$answer" '{"steps_per_batch": 2}' | post /v1/feedback >"$state/step" &
    step=$!
    ask e2e/a "Tell me a very long story about a fox, a king and the sea." 500 |
        jq '.stream = true | .temperature = 1.3 | .seed = 5' |
        curl -sSN --max-time 300 -H 'Content-Type: application/json' --data-binary @- \
            "$url/v1/chat/completions" >"$state/stream" &
    stream=$!
    wait $step
    equal "$(jq -r .status "$state/step")" ok || { cat "$state/step"; return 1; }
    other=$(ask e2e/a "$question" 4 | post /v1/chat/completions | jq .claas.version)
    pieces=$(grep -c '^data' "$state/stream")
    ! grep -q DONE "$state/stream" || { echo "the long answer was over before the step"; return 1; }
    wait $stream
    versions=$(sed -n 's/^data: {/{/p' "$state/stream" | jq -c 'select(.claas).claas.version' | tr '\n' ' ')
    [ "$pieces" -gt 1 ] && equal "$versions" "$before $before " && equal "$other" $((before + 1))
}

survives_a_restart()
{
    answer=$(ask e2e/a "$question" 20 | post /v1/chat/completions)
    before=$(head_version)
    stop "$daemon"
    equal $? 0 || return 1
    start "$state" "$state/store"
    equal "$(head_version)" "$before" || return 1
    id=$(printf '%s' "$answer" | jq -r .id)
    equal "$(curl -s "$url/v1/rollouts/$id" | jq -r .id)" "$id" || return 1
    result=$(feedback_body "$answer" '{}' | post /v1/feedback)
    equal "$(printf '%s' "$result" | jq -r .status)" ok
}

exports_a_zip()
{
    curl -sS -o "$state/a.zip" -D "$state/headers" "$url/v1/lora/export?lora_id=e2e/a" || return 1
    grep -qi 'content-type: application/zip' "$state/headers" || { cat "$state/headers"; return 1; }
    unzip -l "$state/a.zip" | grep -q adapter_model.safetensors && unzip -p "$state/a.zip" adapter_config.json |
        jq -e '.peft_type == "LORA" and .r == 8'
}

too_long_is_refused()
{
    words=$(awk 'BEGIN { for (i = 0; i < 9000; i++) printf " fox" }')
    status=$(ask "" "$words" 10 | post_status /v1/chat/completions)
    equal "$status" 422 || return 1
    jq -r .error.message "$state/refusal" | grep -q 8192
}

question="Who are you?"
start "$state" "$state/store"
i=0
while IFS= read -r line; do
    i=$((i + 1))
    printf '%s\n' "$line" >"$state/line"
    ok "greedy answer $i is that of transformers in float32" greedy_is_exact "$state/line"
done <"$src/tests/data/smollm2-greedy.jsonl"
ok "the pieces of a stream join to the answer" stream_joins
ok "the pieces of a stream carry the log-probabilities of the answer" stream_has_logprobs
ok "log-probabilities come with one alternative unless told otherwise" one_alternative_unless_told
ok "an adapter is made" sh -c "printf '%s' '{\"lora_id\": \"e2e/a\", \"lora_r\": 8, \"lora_alpha\": 16,
    \"base_model\": \"HuggingFaceTB/SmolLM2-135M-Instruct\"}' |
    curl -sS --fail -H 'Content-Type: application/json' --data-binary @- $url/v1/lora/init"
ok "score agrees with what was recorded" score_agrees
ok "feedback makes a version that answers" feedback_makes_a_version
ok "a second feedback makes the next one" feedback_makes_a_version
ok "alpha 0 is refused" refused 422 '{"alpha": 0}'
ok "a learning rate below zero is refused" refused 422 '{"learning_rate": -1}'
ok "an unknown answer is not found" refused 404 '{}' '.requests[0].response = "never said"'
ok "mixed adapters in one batch are refused" refused 400 '{}' '.requests += [.requests[0] | .lora_id = "e2e/b"]'
ok "an unknown adapter is not found" refused 404 '{}' '.requests[0].lora_id = "e2e/none"'
ok "an id that climbs is refused" refused 422 '{}' '.requests[0].lora_id = "../e2e"'
ok "rollback brings the first version back as a new one" rollback_brings_back
ok "answers go on while a step trains" serves_during_a_step
ok "an answer ends on the version it began with" one_answer_one_version
ok "a prompt longer than the context is refused" too_long_is_refused
ok "export is a zip in PEFT layout" exports_a_zip
ok "rollouts and versions survive a restart" survives_a_restart
done_testing
