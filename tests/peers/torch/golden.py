# SPDX-License-Identifier: MIT
"""The golden cases, which tests/unit/test_local_golden.c replays without Python.

golden.py write DIR: makes them anew (DIR is tests/data/golden; run.sh --golden calls this).
golden.py check DIR: makes them in a temporary folder and compares with what DIR has, so that they cannot rot. Prints
one TAP line per case.
"""
import json
import os
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file

import make_cases
from compare import relative, settled

TOLERANCE = 1e-5
UNUSED = [("adapter", "README.md"), ("model", "generation_config.json"), ("model", "tokenizer_config.json")]


def canonical(config):
    """A configuration without what differs from run to run and from version to version."""
    return {key: sorted(value) if key == "target_modules" else value
            for key, value in sorted(config.items()) if not key.endswith("_version")}


def write(out):
    for name in make_cases.GOLDEN:
        folder = os.path.join(out, name)
        shutil.rmtree(folder, ignore_errors=True)
        make_cases.make_case(out, make_cases.GOLDEN, name)
        for part in UNUSED:
            os.remove(os.path.join(folder, *part))
        for part in (("adapter", "adapter_config.json"), ("model", "config.json")):
            with open(os.path.join(folder, *part), encoding="utf-8") as f:
                config = canonical(json.load(f))
            make_cases.write_json(config, folder, *part)
        for path in files_of(folder):
            os.chmod(os.path.join(folder, path), 0o644)


def files_of(folder):
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)


def json_error(one, other):
    """The greatest relative difference of numbers; infinite where anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(abs(other), 1e-6)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(json_error, one, other), default=0.0)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((json_error(one[key], other[key]) for key in one), default=0.0)
    return 0.0 if type(one) is type(other) and one == other else float("inf")


def tensors_error(one, other):
    one, other = load_file(one), load_file(other)
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        return float("inf")
    return max(relative(settled(one[k], other, k), settled(other[k], other, k)) for k in one)


def case_error(fresh, recorded):
    """The greatest error of a case, and in which file."""
    if files_of(fresh) != files_of(recorded):
        return float("inf"), "names of files"
    worst = (0.0, "nothing")
    for name in files_of(fresh):
        one, other = os.path.join(fresh, name), os.path.join(recorded, name)
        if name.endswith(".safetensors"):
            error = tensors_error(one, other)
        else:
            with open(one, encoding="utf-8") as f, open(other, encoding="utf-8") as g:
                error = json_error(json.load(f), json.load(g))
        worst = max(worst, (error, name))
    return worst


def check(recorded):
    results = []
    with tempfile.TemporaryDirectory() as fresh:
        write(fresh)
        for name in sorted(set(os.listdir(fresh)) | set(os.listdir(recorded))):
            error, where = case_error(os.path.join(fresh, name), os.path.join(recorded, name))
            results.append(error <= TOLERANCE)
            print(f"{'ok' if results[-1] else 'not ok'} {len(results)} - golden {name} is what PyTorch gives: "
                  f"{error:.2e} in {where} (at most {TOLERANCE:.0e})", flush=True)
    print(f"1..{len(results)}")
    return all(results)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        sys.exit(0 if check(sys.argv[2]) else 1)
