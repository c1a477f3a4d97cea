# SPDX-License-Identifier: MIT
"""The `openai` package against claasd, as its users call it: openai_client.py BASE_URL MODEL KEY, one TAP line a check."""
import sys

import openai

from tap import check, equal, finish, raises

BASE, MODEL, KEY = sys.argv[1:4]
client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
ASK = [{"role": "user", "content": "Who are you?"}]
GREEDY = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 12}


def chat(**more):
    return client.chat.completions.create(**(GREEDY | more))


def whole_answer():
    r = chat()
    assert r.id.startswith("chatcmpl-") and r.object == "chat.completion" and r.created > 1e9
    equal(r.model, MODEL, "model")
    equal(len(r.choices), 1, "choices")
    equal((r.choices[0].index, r.choices[0].message.role), (0, "assistant"), "choice")
    assert isinstance(r.choices[0].message.content, str) and r.choices[0].finish_reason in ("stop", "length")
    assert r.choices[0].logprobs is None and not r.choices[0].message.tool_calls
    equal(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens, "usage")
    assert r._request_id, "no x-request-id"


def empty_model():
    equal(chat(model="").model, "default", "echo of an empty model")


def joined(stream):
    chunks = list(stream)
    with_choices = [c for c in chunks if c.choices]
    equal({c.object for c in chunks}, {"chat.completion.chunk"}, "object")
    equal(len({c.id for c in chunks}), 1, "ids of one stream")
    equal(with_choices[0].choices[0].delta.role, "assistant", "role in the first chunk")
    assert all(c.choices[0].finish_reason is None for c in with_choices[:-1])
    text = "".join(c.choices[0].delta.content or "" for c in with_choices)
    return text, with_choices[-1].choices[0].finish_reason, chunks


def stream_equals_whole():
    whole = chat()
    text, finish_reason, chunks = joined(chat(stream=True))
    equal(text, whole.choices[0].message.content, "text")
    equal(finish_reason, whole.choices[0].finish_reason, "finish_reason")
    assert all(not c.usage for c in chunks), "usage was not asked for"


def stream_usage():
    whole = chat()
    *_, chunks = joined(chat(stream=True, stream_options={"include_usage": True}))
    equal(chunks[-1].choices, [], "choices of the last chunk")
    equal((chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens),
          (whole.usage.prompt_tokens, whole.usage.completion_tokens), "usage")


def stream_helper():
    with client.chat.completions.stream(**GREEDY) as stream:
        kinds = [event.type for event in stream]
        final = stream.current_completion_snapshot
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    equal(final.choices[0].message.content, chat().choices[0].message.content, "text")


def stream_left_early():
    with chat(stream=True, max_tokens=200, temperature=1) as stream:
        next(iter(stream))
    whole_answer()


async def async_whole_and_stream():
    async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0) as other:
        whole = await other.chat.completions.create(**GREEDY)
        text = ""
        async for chunk in await other.chat.completions.create(**GREEDY, stream=True):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        equal(text, whole.choices[0].message.content, "text")


def logprobs():
    r = chat(logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert r.usage.completion_tokens - len(content) in (0, 1), "the end of turn alone may be missing"
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert abs(token.top_logprobs[0].logprob - token.logprob) < 1e-4, "greedy takes the likeliest"
    said = b"".join(bytes(token.bytes) for token in content).decode("utf-8", "replace")
    equal(said.strip(), r.choices[0].message.content.strip(), "bytes of the tokens")


def logprobs_streamed():
    whole = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    pieces = [t for c in chat(logprobs=True, top_logprobs=2, stream=True) if c.choices and c.choices[0].logprobs
              for t in c.choices[0].logprobs.content or []]
    equal([t.token for t in pieces], [t.token for t in whole], "tokens")
    assert all(abs(a.logprob - b.logprob) < 1e-3 for a, b in zip(pieces, whole))


def stop_text():
    text = chat().choices[0].message.content
    mark = text[len(text) // 2]
    for stop in (mark, [mark, "\x01never"]):
        r = chat(stop=stop)
        equal((r.choices[0].message.content, r.choices[0].finish_reason), (text.split(mark)[0], "stop"), "stop")


def seed_repeats():
    first, again = (chat(temperature=1.5, seed=7).choices[0].message.content for _ in range(2))
    equal(first, again, "the same seed")


def one_choice_only():
    equal(len(chat(n=1).choices), 1, "n=1")
    e = raises(openai.UnprocessableEntityError, chat, n=2)
    equal(e.param, "n", "param")


def max_completion_tokens():
    r = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_completion_tokens=3)
    assert r.usage.completion_tokens <= 3
    equal(r.choices[0].finish_reason, "length", "finish_reason")


def tools_are_warned_of():
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    r = chat(tools=[tool], tool_choice="auto", parallel_tool_calls=False)
    assert isinstance(r.choices[0].message.content, str) and not r.choices[0].message.tool_calls
    assert any("tools" in w for w in r.model_extra["warnings"]), r.model_extra


def response_format_is_warned_of():
    equal(chat(response_format={"type": "text"}).model_extra.get("warnings"), None, "text needs no warning")
    r = chat(response_format={"type": "json_object"})
    assert any("response_format" in w for w in r.model_extra["warnings"]), r.model_extra


def extra_body():
    assert chat(extra_body={"top_k": 1, "nobody_knows_this": {"a": 1}}).choices
    raises(openai.UnprocessableEntityError, chat, extra_body={"top_k": "many"})
    e = raises(openai.UnprocessableEntityError, chat, extra_body={"strict": True, "logit_bias": {"1": 5}})
    equal(e.param, "logit_bias", "param")


def whole_conversation():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    r = chat(messages=[
        {"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be kind."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"}, *ASK],
        user="ann", metadata={"a": "b"}, store=False, service_tier="auto", presence_penalty=0.5, frequency_penalty=0.5)
    assert isinstance(r.choices[0].message.content, str)


def receipt():
    r = chat()
    claas = r.model_extra["claas"]
    equal(sorted(claas), ["adapter", "digest", "version"], "receipt")


def completions():
    more = {"model": MODEL, "prompt": "One, two,", "max_tokens": 8, "temperature": 0}
    r = client.completions.create(**more)
    assert r.id.startswith("cmpl-") and r.object == "text_completion" and isinstance(r.choices[0].text, str)
    equal(client.completions.create(**(more | {"prompt": ["One, two,"]})).choices[0].text, r.choices[0].text, "a list")
    pieces = list(client.completions.create(**more, stream=True))
    equal("".join(p.choices[0].text for p in pieces if p.choices), r.choices[0].text, "stream")
    equal(pieces[-1].choices[0].finish_reason, r.choices[0].finish_reason, "finish_reason")
    pieces = list(client.completions.create(**more, stream=True, stream_options={"include_usage": True}))
    equal(pieces[-1].usage.total_tokens, r.usage.total_tokens, "usage")


def completions_logprobs():
    r = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=5, temperature=0, logprobs=2)
    told = r.choices[0].logprobs
    equal("".join(told.tokens), r.choices[0].text, "tokens")
    assert len(told.token_logprobs) == len(told.tokens) == len(told.top_logprobs) == len(told.text_offset)
    assert all(v <= 0 for v in told.token_logprobs) and all(len(t) in (1, 2) for t in told.top_logprobs)


def models():
    found = client.models.list()
    assert MODEL in [m.id for m in found] and all(m.object == "model" and m.owned_by for m in found)


def errors():
    e = raises(openai.NotFoundError, chat, model="no/such")
    assert e.status_code == 404 and e.type == "not_found_error" and "no/such" in str(e) and e.code and e.request_id
    e = raises(openai.UnprocessableEntityError, chat, temperature=9)
    assert e.param == "temperature" and e.body["message"] and e.response.json()["detail"][0]["loc"] == ["body", "temperature"]
    raises(openai.UnprocessableEntityError, chat, messages=[])
    raises(openai.NotFoundError, client.embeddings.create, model=MODEL, input="x")
    raises(openai.UnprocessableEntityError, client.post, "/chat/completions", cast_to=object, content=b"{not json",
           options={"headers": {"Content-Type": "application/json"}})
    for one in ("peer/a", "peer/b"):
        client.post("/lora/init", cast_to=object, body={"lora_id": one, "lora_r": 4})
    item = {"prompt": "x", "response": "x", "feedback": "x"}
    mixed = {"requests": [item | {"lora_id": "peer/a"}, item | {"lora_id": "peer/b"}]}
    raises(openai.BadRequestError, client.post, "/feedback", cast_to=object, body=mixed)


CHECKS = [whole_answer, empty_model, stream_equals_whole, stream_usage, stream_helper, stream_left_early,
          async_whole_and_stream, logprobs, logprobs_streamed, stop_text, seed_repeats, one_choice_only,
          max_completion_tokens, tools_are_warned_of, response_format_is_warned_of, extra_body, whole_conversation, receipt,
          completions, completions_logprobs, models, errors]
for one in CHECKS:
    check(f"openai: {one.__name__.replace('_', ' ')}", one)
finish()
