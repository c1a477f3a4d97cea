# SPDX-License-Identifier: MIT
"""Writes tiny seeded Llama models, adapters and training jobs, with what PyTorch, transformers and PEFT make of them.

make_cases.py OUT: one folder per case with model/ (Hugging Face), adapter/ (PEFT), job.json and expected.safetensors
(+ expected.json), read by compare.py and by the program that runs our engine on the same files.
"""
import json
import os
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import sdpo_torch

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    # name: (config, lora, settings, lengths of (prompt, response, extra teacher tokens) per sample)
    "gqa_all_modules": (dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
                             num_key_value_heads=2, vocab_size=96, tie_word_embeddings=True),
                        dict(r=4, lora_alpha=8, target_modules=ALL), {}, [(9, 7, 5), (17, 3, 11)]),
    "untied_some_modules": (dict(hidden_size=40, intermediate_size=104, num_hidden_layers=2, num_attention_heads=5,
                                 num_key_value_heads=5, vocab_size=90, tie_word_embeddings=False),
                            dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"]),
                            {"kl_reg_weight": 0.1, "max_grad_norm": 0.05}, [(12, 9, 4)]),
    "reverse_kl": (dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=1, vocab_size=100, tie_word_embeddings=True, head_dim=24),
                   dict(r=8, lora_alpha=16, target_modules=ALL), {"alpha": 1.0, "teacher_top_k": 20},
                   [(5, 12, 6), (33, 8, 3), (2, 1, 1)]),
    "llama3_rope_masked": (dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, vocab_size=96, tie_word_embeddings=True,
                                max_position_embeddings=512,
                                rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0,
                                                     low_freq_factor=1.0, high_freq_factor=4.0,
                                                     original_max_position_embeddings=64)),
                           dict(r=2, lora_alpha=4, target_modules=["o_proj", "gate_proj", "k_proj"]),
                           {"alpha": 0.3, "is_clip": 1.5}, [(150, 20, 10)]),
}
DEFAULTS = {"learning_rate": 1e-3, "alpha": 0.5, "is_clip": 5.0, "max_grad_norm": 1.0, "kl_reg_weight": 0.0,
            "teacher_top_k": 50, "weight_decay": 0.01}
STEPS = 3


def tokens(generator, n, vocab):
    return torch.randint(0, vocab, (n,), generator=generator).tolist()


def byte_symbols():
    """The 256 characters that stand for bytes in byte-level BPE, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def write_tokenizer(folder, vocab):
    """A tokenizer.json of single bytes: these cases are about numbers, but a model needs a tokenizer."""
    symbols = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + byte_symbols()[10:11] + byte_symbols()[32:]
    table = {s: i for i, s in enumerate(symbols[:vocab])}
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, s in enumerate(symbols[:3])]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": False, "vocab": table, "merges": []}}
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(spec, f)
    chatml = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
              "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                   "chat_template": chatml}, f)


def make_samples(model, lengths, vocab, masked, generator):
    samples = []
    for n_prompt, n_response, n_extra in lengths:
        prompt = tokens(generator, n_prompt, vocab)
        response = tokens(generator, n_response, vocab)
        teacher = prompt[: n_prompt // 2] + tokens(generator, n_extra, vocab) + prompt[n_prompt // 2 :]
        with torch.no_grad():
            lp = sdpo_torch.chosen(sdpo_torch.row_logits(model, prompt, response), response)
        noise = torch.randn(n_response, generator=generator) * 0.3
        sample = {"prompt": prompt, "response": response, "teacher": teacher,
                  "logprobs": (lp + noise).clamp(max=-1e-3).tolist()}
        if masked:
            sample["mask"] = [int(i % 3 != 1) for i in range(n_response)]
        samples.append(sample)
    return samples


def file_name(name):
    """PEFT's file spelling of a parameter's name."""
    return name.replace(".default.weight", ".weight")


def make_case(out, name):
    shape, lora, over, lengths = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    torch.manual_seed(7 + len(name))
    base = dict(max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu", attention_bias=False,
                bos_token_id=1, eos_token_id=2, initializer_range=0.25)
    model = LlamaForCausalLM(LlamaConfig(**{**base, **shape})).float().eval()
    folder = os.path.join(out, name)
    model.save_pretrained(os.path.join(folder, "model"))
    write_tokenizer(os.path.join(folder, "model"), shape["vocab_size"])
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **lora))
    with torch.no_grad():  # B starts at zero; a trained adapter is the harder case
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    model.save_pretrained(os.path.join(folder, "adapter"))
    settings = {**DEFAULTS, **over}
    samples = make_samples(model, lengths, shape["vocab_size"], "masked" in name, generator)
    tensors = {}
    for i, s in enumerate(samples):
        with torch.no_grad():
            tensors[f"logprobs.{i}"] = torch.log_softmax(sdpo_torch.row_logits(model, s["prompt"], s["response"]), -1)
    optimizer = sdpo_torch.make_optimizer(model, settings)
    metrics = []
    for i in range(STEPS):
        m, grads = sdpo_torch.step(model, optimizer, samples, settings)
        metrics.append(m)
        if i == 0:
            tensors.update({"grad." + file_name(n): g for n, g in grads.items()})
            tensors.update({"first." + file_name(n): p.detach().clone()
                            for n, p in model.named_parameters() if p.requires_grad})
    tensors.update({"after." + file_name(n): p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "expected.safetensors"))
    job = {"steps": STEPS, "settings": settings, "samples": samples}
    with open(os.path.join(folder, "job.json"), "w", encoding="utf-8") as f:
        json.dump(job, f)
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as f:
        json.dump({"metrics": metrics}, f)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in CASES:
        make_case(sys.argv[1], case)
        print("made", case)
