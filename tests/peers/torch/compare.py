# SPDX-License-Identifier: MIT
"""Compares what our engine made of the cases (drive) with what PyTorch, transformers and PEFT made of them.

compare.py CASES_DIR OURS_DIR: log-probabilities of every row, metrics of each step, gradients of the first step (from
the first moments, which hold (1 - beta1) times the clipped gradient), the adapter after the first step and the last,
and the adapter we wrote: as PEFT loads it, it gives what it gives with us, and what PEFT's own steps gave. One TAP line
each.
"""
import json
import os
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import sdpo_torch

TOLERANCE = 1e-4  # of Frobenius norms
ELEMENT = 2e-4  # of single log-probabilities, which these models magnify rounding in
results = []


def check(name, error, bound):
    ok = error <= bound
    results.append(ok)
    print(f"{'ok' if ok else 'not ok'} {len(results)} - {name}: {error:.2e} (at most {bound:.0e})", flush=True)


def relative(ours, theirs):
    return (torch.linalg.norm(ours.double() - theirs.double()) / max(torch.linalg.norm(theirs.double()), 1e-12)).item()


def settled(tensor, expected, key, noise=1e-5):
    """An adapter's tensor after a step without the elements that noise decides: in the first step Adam divides each
    gradient by its own size, also where there is next to none."""
    kind, _, name = key.partition(".")
    if kind not in ("first", "after"):
        return tensor
    grad = expected["grad." + name]
    return tensor * (grad.abs() > noise * grad.abs().max())


def score_error(ours, wanted, response):
    """Of one sample: the best ids that we tell, which may be all, and the response's own. Frobenius norm, worst element."""
    got = torch.tensor(ours["values"]).reshape(wanted.shape[0], -1)
    ids = torch.tensor(ours["ids"]).long().reshape(got.shape)
    chosen = wanted.gather(1, torch.tensor(response)[:, None])[:, 0]
    best = wanted.topk(got.shape[1]).values
    pairs = ((got, wanted.gather(1, ids)), (got, best), (torch.tensor(ours["logprobs"]), chosen))
    return max(relative(x, y) for x, y in pairs), max((x - y).abs().max().item() for x, y in pairs)


def check_scores(name, ours, wanted, samples):
    errors = [score_error(ours[i], wanted[i], s["response"]) for i, s in enumerate(samples)]
    check(name, max(e[0] for e in errors), TOLERANCE)
    check(f"{name}, worst element", max(e[1] for e in errors), ELEMENT)


def compare_metrics(name, ours, theirs):
    worst = max(abs(mine[key] - value) / max(abs(value), 1e-3)
                for mine, wanted in zip(ours, theirs, strict=True) for key, value in wanted.items())
    check(f"{name}: losses, ratios and norms of {len(theirs)} step(s)", worst, TOLERANCE)


def compare_gradients(name, folder, expected, settings, norm):
    moments = load_file(os.path.join(folder, "step1", "optimizer.safetensors"))
    factor = min(1.0, settings["max_grad_norm"] / (norm + 1e-6)) if settings["max_grad_norm"] else 1.0
    worst = 0.0
    for key, grad in expected.items():
        if key.startswith("grad."):
            first = next(v for k, v in moments.items() if k.startswith("exp_avg.") and key[5:] in k)
            worst = max(worst, relative(first.reshape(grad.shape) / 0.1, grad * factor))
    check(f"{name}: gradients of A and B, worst tensor", worst, TOLERANCE)


def compare_adapters(name, folder, expected, prefix, step):
    ours = load_file(os.path.join(folder, step, "adapter_model.safetensors"))
    wanted = {k: v for k, v in expected.items() if k.startswith(prefix)}
    if {prefix + k for k in ours} != set(wanted):
        check(f"{name}: tensor names of {step}", 1.0, 0.0)
        return
    noise = TOLERANCE / 10
    worst = max(relative(settled(ours[k[len(prefix):]], expected, k, noise), settled(want, expected, k, noise))
                for k, want in wanted.items())
    check(f"{name}: adapter after {step}, worst tensor", worst, TOLERANCE)


def load_base(case):
    """The model of a case, from its folder or from a GGUF file, in float32."""
    if os.path.isdir(os.path.join(case, "model")):
        return AutoModelForCausalLM.from_pretrained(os.path.join(case, "model"), dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(case, gguf_file="model.gguf", dtype=torch.float32)


def peft_rows(case, adapter, samples, tensors=None):
    """Log-probabilities of all rows with an adapter's files in PEFT; with tensors, those of "after." in their place."""
    model = PeftModel.from_pretrained(load_base(case), adapter).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if tensors and "lora_" in n:
                p.copy_(tensors["after." + n.replace(".default.weight", ".weight")])
        return [torch.log_softmax(sdpo_torch.row_logits(model, s["prompt"], s["response"]), -1) for s in samples]


def compare_in_peft(name, case, folder, job, expected):
    """The files we wrote, loaded by PEFT, give what they give with us, and what PEFT's own steps made of its files."""
    with open(os.path.join(folder, "after.json"), encoding="utf-8") as f:
        ours = json.load(f)
    got = peft_rows(case, os.path.join(folder, f"step{job['steps']}"), job["samples"])
    check_scores(f"{name}: log-probabilities of our files in PEFT and with us", ours, got, job["samples"])
    theirs = peft_rows(case, os.path.join(case, "adapter"), job["samples"], expected)
    worst = max((x - y).abs().max().item() for x, y in zip(got, theirs, strict=True))
    moved = max((x - expected[f"logprobs.{i}"]).abs().max().item() for i, x in enumerate(theirs))
    check(f"{name}: log-probabilities of our files in PEFT and of its own, which the steps moved by {moved:.1e}",
          worst if moved > 100 * TOLERANCE else float("inf"), TOLERANCE)


def compare_case(case, folder):
    name = os.path.basename(case)
    expected = load_file(os.path.join(case, "expected.safetensors"))
    loaded = {}
    for part, at in (("job", case), ("expected", case), ("score", folder), ("metrics", folder)):
        with open(os.path.join(at, part + ".json"), encoding="utf-8") as f:
            loaded[part] = json.load(f)
    job, metrics = loaded["job"], loaded["expected"]["metrics"]
    wanted = [expected[f"logprobs.{i}"] for i in range(len(job["samples"]))]
    check_scores(f"{name}: log-probabilities", loaded["score"], wanted, job["samples"])
    compare_metrics(name, loaded["metrics"], metrics)
    compare_gradients(name, folder, expected, job["settings"], metrics[0]["grad_norm"])
    compare_adapters(name, folder, expected, "first.", "step1")
    if job["steps"] > 1:
        compare_adapters(name, folder, expected, "after.", f"step{job['steps']}")
    compare_in_peft(name, case, folder, job, expected)


if __name__ == "__main__":
    for entry in sorted(os.listdir(sys.argv[1])):
        compare_case(os.path.join(sys.argv[1], entry), os.path.join(sys.argv[2], entry))
    print(f"1..{len(results)}")
    sys.exit(0 if results and all(results) else 1)
