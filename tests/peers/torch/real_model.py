# SPDX-License-Identifier: MIT
"""A case like those of make_cases.py on a real model, which transformers loads from the same GGUF file.

real_model.py MODEL.gguf LINES.jsonl OUT: one step of an adapter of rank 8 on answers of the model (the first two lines
of greedy.py answer), with a teacher that was told more.
"""
import json
import os
import sys

import torch
from transformers import AutoTokenizer

import make_cases
import sdpo_torch
from compare import load_base

LORA = dict(r=8, lora_alpha=16, target_modules=make_cases.ALL)
FEEDBACK = " Your name is Kuro, and you answer in one short sentence."
STEPS = 1


def make_sample(model, tokenizer, line):
    told = [{"role": "user", "content": line["messages"][0]["content"] + FEEDBACK}]
    sample = {"prompt": line["prompt_ids"], "response": line["ids"][:32],
              "teacher": tokenizer.apply_chat_template(told, add_generation_prompt=True, return_dict=False)}
    with torch.no_grad():
        logits = sdpo_torch.row_logits(model, sample["prompt"], sample["response"])
    sample["logprobs"] = sdpo_torch.chosen(logits, sample["response"]).tolist()
    return sample


def make_case(gguf, lines, folder):
    os.makedirs(folder)
    os.symlink(os.path.abspath(gguf), os.path.join(folder, "model.gguf"))
    torch.manual_seed(8)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    model = make_cases.make_adapter(folder, load_base(folder).eval(), LORA, torch.Generator().manual_seed(8))
    samples = [make_sample(model, tokenizer, line) for line in lines[:2]]
    make_cases.write_case(folder, model, samples, {**make_cases.DEFAULTS, "learning_rate": 1e-4}, STEPS)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    with open(sys.argv[2], encoding="utf-8") as f:
        make_case(sys.argv[1], [json.loads(line) for line in f], os.path.join(sys.argv[3], "smollm2_q4_1"))
