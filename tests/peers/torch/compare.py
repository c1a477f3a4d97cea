# SPDX-License-Identifier: MIT
"""Compares what our engine made of the cases (drive) with what PyTorch, transformers and PEFT made of them.

compare.py CASES_DIR OURS_DIR: log-probabilities of every row, metrics of three steps, gradients of the first step (from
the first moments, which hold (1 - beta1) times the clipped gradient), the adapter after one and three steps, and the
adapter we wrote as PEFT loads it. Prints one TAP line per comparison.
"""
import json
import os
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

import sdpo_torch

TOLERANCE = 1e-4
results = []


def check(name, error, bound=TOLERANCE):
    ok = error <= bound
    results.append(ok)
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {name}: {error:.2e} (at most {bound:.0e})", flush=True)


def relative(ours, theirs):
    return (torch.linalg.norm(ours.double() - theirs.double()) / max(torch.linalg.norm(theirs.double()), 1e-12)).item()


def compare_scores(name, ours, expected, samples):
    worst = 0.0
    for i, sample in enumerate(samples):
        want = expected[f"logprobs.{i}"]
        ids = torch.tensor(ours[i]["ids"]).reshape(want.shape).long()
        got = torch.zeros_like(want).scatter(1, ids, torch.tensor(ours[i]["values"]).reshape(want.shape))
        worst = max(worst, (got - want).abs().max().item())
        chosen = want.gather(1, torch.tensor(sample["response"])[:, None])[:, 0]
        worst = max(worst, (torch.tensor(ours[i]["logprobs"]) - chosen).abs().max().item())
    check(f"{name}: log-probabilities of all tokens", worst)


def compare_metrics(name, ours, theirs):
    worst = max(abs(mine[key] - value) / max(1.0, abs(value))
                for mine, wanted in zip(ours, theirs, strict=True) for key, value in wanted.items())
    check(f"{name}: losses, ratios and norms of three steps", worst)


def compare_gradients(name, folder, expected, settings, norm):
    moments = load_file(os.path.join(folder, "step1", "optimizer.safetensors"))
    factor = min(1.0, settings["max_grad_norm"] / (norm + 1e-6)) if settings["max_grad_norm"] else 1.0
    worst = 0.0
    for key, grad in expected.items():
        if key.startswith("grad."):
            first = next(v for k, v in moments.items() if k.startswith("exp_avg.") and key[5:] in k)
            worst = max(worst, relative(first.reshape(grad.shape) / 0.1, grad * factor))
    check(f"{name}: gradients of A and B, worst tensor", worst)


def compare_adapters(name, folder, expected, prefix, step):
    ours = load_file(os.path.join(folder, step, "adapter_model.safetensors"))
    wanted = {k[len(prefix):]: v for k, v in expected.items() if k.startswith(prefix)}
    if set(ours) != set(wanted):
        check(f"{name}: tensor names of {step}", 1.0, 0.0)
        return
    worst = 0.0
    for key, want in wanted.items():
        # In the first step Adam divides each gradient by its own size: where there is next to none, noise decides.
        grad = expected["grad." + key]
        keep = grad.abs() > 1e-5 * grad.abs().max()
        worst = max(worst, relative(ours[key] * keep, want * keep))
    check(f"{name}: adapter after {step}, worst tensor", worst)


def compare_in_peft(name, case, folder, samples):
    """The files we wrote, loaded by PEFT, give the distribution that PEFT's own three steps gave."""
    base = LlamaForCausalLM.from_pretrained(os.path.join(case, "model"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, os.path.join(folder, "step3")).eval()
    after = load_file(os.path.join(case, "expected.safetensors"))
    with torch.no_grad():
        got = sdpo_torch.row_logits(model, samples[0]["prompt"], samples[0]["response"])
        for n, p in model.named_parameters():
            if "lora_" in n:
                p.copy_(after["after." + n.replace(".default.weight", ".weight")])
        want = sdpo_torch.row_logits(model, samples[0]["prompt"], samples[0]["response"])
    check(f"{name}: logits of our files in PEFT", (got - want).abs().max().item(), 1e-3)


def compare_case(case, folder):
    name = os.path.basename(case)
    expected = load_file(os.path.join(case, "expected.safetensors"))
    with open(os.path.join(case, "job.json"), encoding="utf-8") as f:
        job = json.load(f)
    with open(os.path.join(case, "expected.json"), encoding="utf-8") as f:
        theirs = json.load(f)["metrics"]
    with open(os.path.join(folder, "score.json"), encoding="utf-8") as f:
        scores = json.load(f)
    with open(os.path.join(folder, "metrics.json"), encoding="utf-8") as f:
        metrics = json.load(f)
    compare_scores(name, scores, expected, job["samples"])
    compare_metrics(name, metrics, theirs)
    compare_gradients(name, folder, expected, job["settings"], theirs[0]["grad_norm"])
    compare_adapters(name, folder, expected, "first.", "step1")
    compare_adapters(name, folder, expected, "after.", "step3")
    compare_in_peft(name, case, folder, job["samples"])


if __name__ == "__main__":
    for entry in sorted(os.listdir(sys.argv[1])):
        compare_case(os.path.join(sys.argv[1], entry), os.path.join(sys.argv[2], entry))
    print(f"1..{len(results)}")
    sys.exit(0 if results and all(results) else 1)
