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
# Small enough to be kept beside the tests, where `make check` replays them without Python (golden.py). The weights are
# of ordinary size: the harder cases above, with sharp attention, magnify what rounding does some hundred times. Rates
# and bases are such that weight decay and each of the three bands of llama3's frequencies show.
GOLDEN = {
    "gqa_all_modules": (dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                             num_key_value_heads=2, vocab_size=100, tie_word_embeddings=True, initializer_range=0.1),
                        dict(r=2, lora_alpha=4, target_modules=ALL),
                        {"kl_reg_weight": 0.1, "learning_rate": 2e-3, "weight_decay": 0.5},
                        [(9, 7, 5), (17, 3, 11)]),
    "reverse_kl_some_modules": (dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                                     num_key_value_heads=1, head_dim=10, vocab_size=90, tie_word_embeddings=False,
                                     initializer_range=0.1),
                                dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"]),
                                {"alpha": 1.0, "teacher_top_k": 20, "max_grad_norm": 0.05},
                                [(5, 8, 6), (33, 4, 3), (2, 1, 1)]),
    "llama3_rope_masked": (dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                num_key_value_heads=2, vocab_size=80, tie_word_embeddings=True,
                                max_position_embeddings=512, initializer_range=0.1,
                                rope_parameters=dict(rope_type="llama3", rope_theta=100.0, factor=8.0,
                                                     low_freq_factor=1.0, high_freq_factor=4.0,
                                                     original_max_position_embeddings=64)),
                           dict(r=2, lora_alpha=4, target_modules=["o_proj", "gate_proj", "k_proj"]),
                           {"alpha": 0.3, "is_clip": 1.5}, [(150, 14, 10)]),
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
              "'<|im_end|>' + '\n'}}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
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


def write_json(value, *path):
    with open(os.path.join(*path), "w", encoding="utf-8") as f:
        json.dump(value, f)


def make_model(folder, name, shape):
    torch.manual_seed(7 + len(name))
    base = dict(max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu", attention_bias=False,
                bos_token_id=1, eos_token_id=2, initializer_range=0.25)
    model = LlamaForCausalLM(LlamaConfig(**{**base, **shape})).float().eval()
    model.save_pretrained(os.path.join(folder, "model"))
    write_tokenizer(os.path.join(folder, "model"), shape["vocab_size"])
    return model


def make_adapter(folder, model, lora, generator):
    """A PEFT adapter over the model, written; B, which starts at zero, is not: a trained adapter is the harder case."""
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **lora))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    model.save_pretrained(os.path.join(folder, "adapter"))
    return model


def adapter_tensors(model, prefix):
    """What is trained, under the names that PEFT gives it in files."""
    return {prefix + n.replace(".default.weight", ".weight"): p.detach().clone()
            for n, p in model.named_parameters() if p.requires_grad}


def run_job(model, samples, settings, steps):
    """Log-probabilities of all rows, then the steps: (tensors by name, metrics of each step)."""
    tensors = {}
    for i, s in enumerate(samples):
        with torch.no_grad():
            tensors[f"logprobs.{i}"] = torch.log_softmax(sdpo_torch.row_logits(model, s["prompt"], s["response"]), -1)
    optimizer = sdpo_torch.make_optimizer(model, settings)
    metrics = []
    for i in range(steps):
        m, grads = sdpo_torch.step(model, optimizer, samples, settings)
        metrics.append(m)
        if i == 0:
            tensors.update({"grad." + n.replace(".default.weight", ".weight"): g for n, g in grads.items()})
            tensors.update(adapter_tensors(model, "first."))
    tensors.update(adapter_tensors(model, "after."))
    return tensors, metrics


def write_case(folder, model, samples, settings, steps):
    """The job and what PyTorch makes of it; model and adapter are there already."""
    tensors, metrics = run_job(model, samples, settings, steps)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "expected.safetensors"))
    write_json({"steps": steps, "settings": settings, "samples": samples}, folder, "job.json")
    write_json({"metrics": metrics}, folder, "expected.json")


def make_case(out, cases, name):
    shape, lora, over, lengths = cases[name]
    folder = os.path.join(out, name)
    generator = torch.Generator().manual_seed(len(name))
    model = make_adapter(folder, make_model(folder, name, shape), lora, generator)
    samples = make_samples(model, lengths, shape["vocab_size"], "masked" in name, generator)
    write_case(folder, model, samples, {**DEFAULTS, **over}, STEPS)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in CASES:
        make_case(sys.argv[1], CASES, case)
        print("made", case)
