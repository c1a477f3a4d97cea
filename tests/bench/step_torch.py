# SPDX-License-Identifier: MIT
"""Peer B: one feedback step as the Python system orders it, with a resident model, on PyTorch, transformers and PEFT.

step_torch.py MODEL.gguf PROMPT RESPONSE TEACHER ROUNDS [--tuned]: prints one JSON line per round with seconds and peak
memory. Plain: fp32 adapters (rank 32, alpha 64, all linears), gradient checkpointing, base and teacher and student
passes over all rows. --tuned (peer C): no checkpointing, output rows of the response only, base pass skipped.
"""
import json
import os
import resource
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers", "torch"))
import sdpo_torch

SETTINGS = {"learning_rate": 3e-5, "alpha": 0.5, "is_clip": 5.0, "max_grad_norm": 1.0, "kl_reg_weight": 0.0,
            "teacher_top_k": 100}


def row_logits_tuned(model, context, response):
    """As sdpo_torch.row_logits, with the output matrix on the needed rows only."""
    ids = torch.tensor([list(context) + list(response)])
    rows = torch.arange(len(context) - 1, ids.shape[1] - 1)
    return model(input_ids=ids, use_cache=False, logits_to_keep=rows).logits[0].float()


def main():
    path, n_prompt, n_response, n_teacher, rounds = sys.argv[1], *map(int, sys.argv[2:6])
    tuned = "--tuned" in sys.argv
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path),
                                                 dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    model.train()
    if tuned:
        sdpo_torch.row_logits = row_logits_tuned
    else:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vocab = model.config.vocab_size
    sample = {"prompt": torch.randint(0, vocab, (n_prompt,)).tolist(),
              "response": torch.randint(0, vocab, (n_response,)).tolist(),
              "teacher": torch.randint(0, vocab, (n_teacher,)).tolist()}
    with torch.no_grad():
        logits = sdpo_torch.row_logits(model, sample["prompt"], sample["response"])
        sample["logprobs"] = sdpo_torch.chosen(logits, sample["response"]).tolist()
        del logits
    optimizer = sdpo_torch.make_optimizer(model, SETTINGS)
    for _ in range(rounds):
        start = time.monotonic()
        if not tuned:  # the Python system makes the base pass whatever its weight is
            with torch.no_grad(), model.disable_adapter():
                sdpo_torch.chosen(sdpo_torch.row_logits(model, sample["prompt"], sample["response"]),
                                  sample["response"])
        sdpo_torch.step(model, optimizer, [sample], SETTINGS)
        print(json.dumps({"seconds": round(time.monotonic() - start, 3),
                          "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}), flush=True)


if __name__ == "__main__":
    main()
