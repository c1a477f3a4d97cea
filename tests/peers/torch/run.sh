#!/bin/sh
# Compares our engine with PyTorch, transformers and PEFT: run.sh BUILD_DIR [MODEL.gguf]. Installs them into a virtual
# environment outside the tree (CLAAS_PEER_VENV, by default in the user's cache; about 2 GB, more where there are no
# CUDA libraries, since the wheel of PyTorch asks for them even to compute on processors).
# run.sh --golden makes tests/data/golden anew, which `make check` replays. SPDX-License-Identifier: MIT
set -eu

here=$(cd "$(dirname "$0")" && pwd)
data=$here/../../data
venv=${CLAAS_PEER_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/claas/peer-torch}
python=$venv/bin/python
work=$(mktemp -d "${TMPDIR:-/tmp}/claas-peer.XXXXXX")
failures=0
trap 'rm -rf "$work"' EXIT

if [ ! -x "$python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch transformers peft gguf
fi
# A wheel installed without its CUDA packages finds those of the system's toolkit.
libs=$(find "$venv/lib" -path '*nvidia*' -name lib -type d 2>/dev/null | tr '\n' ':')
LD_LIBRARY_PATH=$libs/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH PYTHONDONTWRITEBYTECODE

# peer SCRIPT ARGUMENTS…: its results; what the libraries say on the way only when it fails.
peer()
{
    script=$1
    shift
    if ! "$python" "$here/$script" "$@" 2>"$work/log"; then
        tail -30 "$work/log" >&2
        failures=$((failures + 1))
    fi
}

# Our engine on every case in $1, into $2.
drive_cases()
{
    for case in "$1"/*/; do
        mkdir -p "$2/$(basename "$case")"
        model=$case/model
        [ -d "$model" ] || model=$case/model.gguf
        "$build/drive" cpu "$model" "$case/adapter" "$case/job.json" "$2/$(basename "$case")"
    done
}

tiny_models()
{
    peer make_cases.py "$work/cases" >"$work/made"
    drive_cases "$work/cases" "$work/ours"
    sed 's/^/# /; s/ (/, instructions (/; s/;.*//' "$work/ours/gqa_all_modules/status.txt"
    echo
    peer compare.py "$work/cases" "$work/ours"
    peer golden.py check "$data/golden"
}

real_model()
{
    peer tokenizer_peer.py "$build/tok_dump" "$1"
    peer greedy.py answer "$1" 64 >"$work/lines"
    if cmp "$work/lines" "$data/smollm2-greedy.jsonl"; then
        echo "ok - the recorded greedy answers are those of transformers"
    else
        echo "not ok - the recorded greedy answers are not those of transformers"
        failures=$((failures + 1))
    fi
    peer greedy.py job "$work/lines" >"$work/greedy-job.json"
    mkdir "$work/greedy"
    "$build/drive" cpu "$1" - "$work/greedy-job.json" "$work/greedy"
    peer greedy.py compare "$work/lines" "$work/greedy/greedy.json"
    peer real_model.py "$1" "$work/lines" "$work/real"
    drive_cases "$work/real" "$work/real-ours"
    peer compare.py "$work/real" "$work/real-ours"
}

"$python" -c 'import torch, transformers, peft; print("# torch", torch.__version__, "transformers",
    transformers.__version__, "peft", peft.__version__)'
if [ "$1" = --golden ]; then
    peer golden.py write "$data/golden"
    exit $failures
fi
build=$(cd "$1" && pwd)
CLAAS_PLUGIN_PATH=${CLAAS_PLUGIN_PATH:-$build/.libs}
export CLAAS_PLUGIN_PATH
make -C "$build" -s drive tok_dump
tiny_models
[ -z "${2:-}" ] || real_model "$2"
echo "# scripts that found differences: $failures"
[ $failures = 0 ]
