# SPDX-License-Identifier: MIT
"""Greedy answers to five questions by transformers, from the same GGUF file dequantised to float32, as JSON lines of
{"messages", "ids"}: what claasd must answer token for token.

greedy.py MODEL.gguf N_TOKENS
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = ["Who are you?", "What is the capital of France?", "Write a haiku about the sea.",
             "Explain in two sentences why the sky is blue.", "def fibonacci(n):"]


def main():
    folder, name = os.path.split(os.path.abspath(sys.argv[1]))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                 max_new_tokens=int(sys.argv[2]), do_sample=False, num_beams=1,
                                 eos_token_id=2, pad_token_id=2, temperature=None, top_p=None, top_k=None,
                                 repetition_penalty=1.0)
        print(json.dumps({"messages": messages, "prompt_ids": ids, "ids": out[0, len(ids):].tolist()}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    main()
