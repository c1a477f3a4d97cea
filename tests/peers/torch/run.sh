#!/bin/sh
# Compares our engine with PyTorch, transformers and PEFT: run.sh BUILD_DIR [MODEL.gguf]. Installs them into a virtual
# environment outside the tree (CLAAS_PEER_VENV, by default in the user's cache; about 2 GB, more where there are no
# CUDA libraries, since the wheel of PyTorch asks for them even to compute on processors). SPDX-License-Identifier: MIT
set -eu

build=$(cd "$1" && pwd)
model=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
venv=${CLAAS_PEER_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/claas/peer-torch}
work=$(mktemp -d "${TMPDIR:-/tmp}/claas-peer.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch transformers peft gguf
fi
# A wheel installed without its CUDA packages finds those of the system's toolkit.
libs=$(find "$venv/lib" -path '*nvidia*' -name lib -type d 2>/dev/null | tr '\n' ':')
LD_LIBRARY_PATH=$libs/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
python=$venv/bin/python
"$python" -c 'import torch, transformers, peft; print("# torch", torch.__version__, "transformers",
    transformers.__version__, "peft", peft.__version__)'

make -C "$build" -s drive tok_dump
CLAAS_PLUGIN_PATH=${CLAAS_PLUGIN_PATH:-$build/.libs}
export CLAAS_PLUGIN_PATH
"$python" "$here/make_cases.py" "$work/cases" >"$work/make.log" 2>&1 || { cat "$work/make.log"; exit 1; }
for case in "$work"/cases/*/; do
    name=$(basename "$case")
    mkdir -p "$work/ours/$name"
    "$build/drive" cpu "$case/model" "$case/adapter" "$case/job.json" "$work/ours/$name"
done
"$python" "$here/compare.py" "$work/cases" "$work/ours" 2>"$work/compare.log" || { cat "$work/compare.log" >&2; exit 1; }

if [ -n "$model" ]; then
    "$python" "$here/tokenizer_peer.py" "$build/tok_dump" "$model" 2>/dev/null
    "$python" "$here/greedy.py" "$model" 64 2>/dev/null | grep '^{' >"$work/greedy.jsonl"
    if cmp -s "$work/greedy.jsonl" "$here/../../data/smollm2-greedy.jsonl"; then
        echo "ok - the recorded greedy answers are those of transformers"
    else
        echo "not ok - the recorded greedy answers are not those of transformers"
        exit 1
    fi
fi
