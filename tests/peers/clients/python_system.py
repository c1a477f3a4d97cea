# SPDX-License-Identifier: MIT
"""A client of the Python system against claasd: the calls its harness and gateway make, by requests and httpx, with every
field of the contract. python_system.py URL BASE_MODEL KEY, one TAP line a check. KEY may be empty: those clients send none."""
import hashlib
import io
import re
import sys
import zipfile

import httpx
import requests

from tap import check, equal, finish

URL, BASE_MODEL, KEY = sys.argv[1:4]
HEADERS = {"Authorization": f"Bearer {KEY}"} if KEY else {}
http = requests.Session()
http.headers.update(HEADERS)
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
USER = {"role": "user", "content": "Who are you?"}
TRAINING = {"learning_rate": 3e-5, "alpha": 0.5, "is_clip": 5.0, "max_grad_norm": 1.0, "kl_reg_weight": 0.0,
            "teacher_top_k": 100}
made = {}


def post(path, body, status=200):
    r = http.post(URL + path, json=body, timeout=180)
    equal(r.status_code, status, f"status of {path}, {r.text[:200]}")
    return r.json()


def get(path, status=200, **query):
    r = http.get(URL + path, params=query, timeout=60)
    equal(r.status_code, status, f"status of {path}, {r.text[:200]}")
    return r


def refused(path, body, status):
    return post(path, body, status)["detail"]


def root_and_health():
    about = get("/").json()
    assert {"name", "version", "description", "docs"} <= set(about), about
    for path in ("/v1/health", "/health"):
        h = get(path).json()
        equal((h["status"], h["worker"]["status"], h["worker"]["error"]), ("healthy", "healthy", None), path)


def init():
    r = post("/v1/lora/init", {"lora_id": "eval/identity", "base_model": BASE_MODEL, "lora_r": 8, "lora_alpha": 16,
                               "target_modules": ["q_proj", "v_proj"]})
    equal(r["lora_id"], "eval/identity-init", "created id")
    made["id"] = r["lora_id"]
    post("/v1/lora/init", {"lora_id": "eval/other", "base_model": BASE_MODEL, "lora_r": 4, "target_modules": None})
    refused("/v1/lora/init", {"lora_id": "eval/x", "base_model": "no/such-base"}, 403)
    for bad in ({}, {"lora_id": 5}, {"lora_id": "eval/x", "lora_r": 100000}, {"lora_id": "eval/x", "lora_alpha": "big"}):
        refused("/v1/lora/init", bad, 422)


def listing():
    every = get("/v1/lora").json()["loras"]
    equal(every, sorted(set(every)), "sorted, no duplicates")
    assert any(one.startswith("eval/identity") for one in every), every
    one = get("/v1/lora", prefix="eval/identity").json()["loras"]
    assert one and all(name.startswith("eval/identity") for name in one), one
    equal(get("/v1/lora", prefix="..").json()["loras"], [], "a prefix that climbs")


def chat(model, **more):
    body = {"model": model, "messages": [SYSTEM, USER], "max_tokens": 16, "temperature": 0, "top_p": 1.0, "stream": False,
            "stop": None, "logprobs": False, "top_logprobs": 1}
    return post("/v1/chat/completions", body | more)


def chat_fields():
    r = chat(made["id"])
    assert re.fullmatch(r"chatcmpl-\S{12,}", r["id"]) and isinstance(r["created"], int), r
    equal((r["object"], r["model"]), ("chat.completion", made["id"]), "object, model")
    choice = r["choices"][0]
    equal((choice["index"], choice["message"]["role"], choice["logprobs"]), (0, "assistant", None), "choice")
    assert choice["finish_reason"] in ("stop", "length") and isinstance(choice["message"]["content"], str)
    equal(set(r["usage"]), {"prompt_tokens", "completion_tokens", "total_tokens"}, "usage")
    equal(chat("")["model"], "default", "an empty model")
    equal(chat("eval-identity-init")["choices"][0]["message"], choice["message"], "the flattened name")


def chat_content_forms():
    for content in (None, "text", ["a", {"text": "b"}, {"content": "c"}, {"type": "image_url"}], {"text": "d"}, 5):
        chat(made["id"], messages=[SYSTEM, {"role": "user", "content": content}, USER])


def chat_logprobs():
    content = chat(made["id"], logprobs=True, top_logprobs=20)["choices"][0]["logprobs"]["content"]
    for token in content:
        assert {"token", "logprob", "bytes", "top_logprobs"} <= set(token)
        assert 1 <= len(token["top_logprobs"]) <= 20 and {"token", "logprob", "bytes"} <= set(token["top_logprobs"][0])
    r = post("/v1/chat/completions", {"model": made["id"], "messages": [SYSTEM, USER], "max_tokens": 4, "logprobs": True})
    tops = [token["top_logprobs"] for token in r["choices"][0]["logprobs"]["content"]]
    assert tops and all(len(one) == 1 for one in tops), "top_logprobs is 1 unless the request says otherwise"


def chat_streamed():
    body = {"model": made["id"], "messages": [SYSTEM, USER], "max_tokens": 16, "temperature": 0, "stream": True}
    with httpx.Client(headers=HEADERS, timeout=120) as other:
        with other.stream("POST", URL + "/v1/chat/completions", json=body) as r:
            assert r.status_code == 200 and r.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in r.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines), lines
    equal(lines[-1], "data: [DONE]", "the end")
    chunks = [httpx.Response(200, content=line[6:]).json() for line in lines[:-1]]
    equal({c["object"] for c in chunks}, {"chat.completion.chunk"}, "object")
    equal(chunks[0]["choices"][0]["delta"]["role"], "assistant", "role")
    equal((chunks[-1]["choices"][0]["delta"], chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")),
          ({}, True), "the last chunk")
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    equal(text, chat(made["id"])["choices"][0]["message"]["content"], "text")


def chat_refusals():
    good = {"model": made["id"], "messages": [USER]}
    for bad in ({"messages": None}, {"messages": "hi"}, {"messages": [{"content": "x"}]}, {"max_tokens": "many"},
                {"temperature": "hot"}, {"top_p": []}, {"stream": "perhaps"}, {"stop": 5}, {"logprobs": {}}):
        detail = refused("/v1/chat/completions", good | bad, 422)
        assert {"type", "loc", "msg"} <= set(detail[0]) and detail[0]["loc"][0] == "body", detail
    assert isinstance(refused("/v1/chat/completions", good | {"model": "no/such"}, 404), str)


def completions():
    body = {"model": made["id"], "prompt": "One, two,", "max_tokens": 8, "temperature": 0, "top_p": 1.0, "stop": ["\x01"],
            "stream": False}
    r = post("/v1/completions", body)
    equal((r["object"], r["choices"][0]["index"]), ("text_completion", 0), "object")
    assert r["id"].startswith("cmpl-") and isinstance(r["choices"][0]["text"], str) and r["usage"]["total_tokens"]
    lines = http.post(URL + "/v1/completions", json=body | {"stream": True}, timeout=60).text.strip().split("\n\n")
    equal(lines[-1], "data: [DONE]", "the end")
    text = "".join(httpx.Response(200, content=line[6:]).json()["choices"][0]["text"] for line in lines[:-1])
    equal(text, r["choices"][0]["text"], "streamed text")


def models():
    r = get("/v1/models").json()
    equal(r["object"], "list", "object")
    assert all(m["object"] == "model" and m["id"] and m["owned_by"] for m in r["data"]), r
    assert BASE_MODEL in [m["id"] for m in r["data"]], r


def score():
    r = post("/v1/score", {"model": made["id"], "messages": [SYSTEM, USER], "completion": "I am Kuro."})
    equal(len(r["logprobs"]), r["completion_tokens"], "logprobs")
    equal(len(r["tokens"]), r["completion_tokens"], "tokens")
    assert abs(sum(r["logprobs"]) - r["logprob_sum"]) < 1e-3 and r["prompt_tokens"] > 0
    assert "".join(r["tokens"]).startswith("I am Kuro."), r["tokens"]
    for absent in ("model", "messages", "completion"):
        body = {"model": made["id"], "messages": [USER], "completion": "x"}
        del body[absent]
        refused("/v1/score", body, 422)


def item(**more):
    text = chat(made["id"], temperature=1, max_tokens=24)["choices"][0]["message"]["content"]
    return {"lora_id": made["id"], "prompt": USER["content"], "response": text or "x",
            "feedback": "Always introduce yourself as Kuro", "training": TRAINING} | more


def feedback():
    body = {"requests": [item(), item()], "orchestration": {"sleep_before": False, "wake_after": False,
                                                            "wake_on_failure": True, "sleep_level": 1}}
    before = score_of("I am Kuro.")
    r = post("/v1/feedback", body)
    assert {"status", "request_id", "lora_id", "distill_result", "vllm", "feedback_log_path", "timing_ms",
            "batch_size"} <= set(r), r
    equal((r["status"], r["batch_size"], r["vllm"]), ("ok", 2, {"slept": False, "woke": False}), "feedback")
    assert re.fullmatch(r"[0-9a-f]{32}", r["request_id"]) and isinstance(r["feedback_log_path"], str)
    equal(r["distill_result"]["lora_id"], r["lora_id"], "the adapter written")
    assert {"total_loss", "distill_loss", "kl_reg", "mean_is_ratio", "clip_fraction", "grad_norm", "tokens_processed",
            "batch_size", "teacher_scored_texts"} <= set(r["distill_result"]["metadata"]), r["distill_result"]
    assert {"sleep", "distill", "save", "wake", "logprobs", "total"} <= set(r["timing_ms"]), r["timing_ms"]
    assert all(isinstance(v, int) for v in r["timing_ms"].values()), r["timing_ms"]
    assert score_of("I am Kuro.") != before, "the answer comes from the new version"


def score_of(text):
    return post("/v1/score", {"model": made["id"], "messages": [SYSTEM, USER], "completion": text})["logprob_sum"]


def feedback_flattened():
    """The gateway folds whitespace; the normal form of the answer still finds it."""
    one = item()
    post("/v1/feedback", {"requests": [one | {"response": "  " + " \n ".join(one["response"].split(" ")) + "\n"}]})


def feedback_refusals():
    good = item()
    refused("/v1/feedback", {"requests": []}, 422)
    refused("/v1/feedback", {}, 422)
    for name in ("lora_id", "prompt", "response", "feedback"):
        refused("/v1/feedback", {"requests": [good | {name: ""}]}, 422)
    refused("/v1/feedback", {"requests": [good], "orchestration": {"sleep_level": 3}}, 422)
    for setting, value in (("learning_rate", 0), ("alpha", 2), ("is_clip", 0.5), ("max_grad_norm", -1),
                           ("kl_reg_weight", 2), ("teacher_top_k", 5)):
        refused("/v1/feedback", {"requests": [good | {"training": {setting: value}}]}, 422)
    refused("/v1/feedback", {"requests": [good, good | {"lora_id": "eval/other"}]}, 400)
    refused("/v1/feedback", {"requests": [good, good | {"training": {"alpha": 0.6}}]}, 400)
    refused("/v1/feedback", {"requests": [good | {"lora_id": "eval/none"}]}, 404)
    never = "nobody ever said this"
    key = hashlib.sha256(never.encode()).hexdigest()[:16]
    assert key in str(refused("/v1/feedback", {"requests": [good | {"response": never}]}, 404)), "the key is named"


def export():
    r = get("/v1/lora/export", lora_id=made["id"])
    equal(r.headers["content-type"], "application/zip", "type")
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9_.-]+\.zip"', r.headers["content-disposition"])
    names = zipfile.ZipFile(io.BytesIO(r.content)).namelist()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names), names
    get("/v1/lora/export", status=404, lora_id="eval/none")


def delete():
    def gone(name):
        r = http.delete(URL + "/v1/lora", params={"lora_id": name}, timeout=60)
        equal(r.status_code, 200, r.text)
        return r.json()
    equal(gone("eval/other"), {"deleted": True}, "there")
    equal(gone("eval/other"), {"deleted": False}, "not there any more")


def never_public_again():
    get("/v1/feedback/recent", status=404)
    equal(http.post(URL + "/v1/distill", json={}, timeout=60).status_code, 404, "/v1/distill")


for one in [root_and_health, init, listing, chat_fields, chat_content_forms, chat_logprobs, chat_streamed, chat_refusals,
            completions, models, score, feedback, feedback_flattened, feedback_refusals, export, delete,
            never_public_again]:
    check(f"Python system: {one.__name__.replace('_', ' ')}", one)
finish()
