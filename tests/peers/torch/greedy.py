# SPDX-License-Identifier: MIT
"""Greedy answers to five questions by transformers, from the same GGUF file dequantised to float32, and by our engine.

greedy.py answer MODEL.gguf N_TOKENS: theirs, as JSON lines of {"messages", "prompt_ids", "ids"}; tests/data records them
greedy.py job LINES: the job that asks our engine (drive) the same
greedy.py compare LINES OURS.json: holds what it answered against the lines, token for token; one TAP line each
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = ["Who are you?", "What is the capital of France?", "Write a haiku about the sea.",
             "Explain in two sentences why the sky is blue.", "def fibonacci(n):"]


def answer(path, n_tokens):
    folder, name = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                 max_new_tokens=n_tokens, do_sample=False, num_beams=1,
                                 eos_token_id=2, pad_token_id=2, temperature=None, top_p=None, top_k=None,
                                 repetition_penalty=1.0)
        print(json.dumps({"messages": messages, "prompt_ids": ids, "ids": out[0, len(ids):].tolist()}), flush=True)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def job(lines):
    return {"steps": 0, "generate": max(len(line["ids"]) for line in lines),
            "samples": [{"prompt": line["prompt_ids"], "response": line["ids"]} for line in lines]}


def compare(lines, ours):
    good = [mine == line["ids"] for line, mine in zip(lines, ours, strict=True)]
    for i, line in enumerate(lines):
        question = line["messages"][0]["content"]
        print(f"{'ok' if good[i] else 'not ok'} {i + 1} - greedy answer to '{question}' is that of transformers, "
              f"{len(line['ids'])} tokens")
        if not good[i]:
            print(f"# {ours[i]}\n# {line['ids']}")
    print(f"1..{len(lines)}")
    return len(lines) == len(QUESTIONS) and all(good)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    if sys.argv[1] == "answer":
        answer(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] == "job":
        print(json.dumps(job(read_lines(sys.argv[2]))))
    else:
        with open(sys.argv[3], encoding="utf-8") as answers:
            sys.exit(0 if compare(read_lines(sys.argv[2]), json.load(answers)) else 1)
