#!/bin/sh
# Clients that know nothing of us: the openai package, a client of the Python system, curl by the README's lines.
# run.sh BUILD_DIR [MODEL.gguf]. Installs the packages into a virtual environment outside the tree
# (CLAAS_CLIENTS_VENV, by default in the user's cache). Without the real model all is asked of a tiny one.
# Skips (status 77) where they cannot be installed. SPDX-License-Identifier: MIT
set -u

here=$(cd "$(dirname "$0")" && pwd)
abs_top_srcdir=$(cd "$here/../../.." && pwd)
abs_top_builddir=$(cd "$1" && pwd)
CLAAS_TEST_MODEL=${2:-}
venv=${CLAAS_CLIENTS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/claas/peer-clients}
python=$venv/bin/python
PYTHONDONTWRITEBYTECODE=1
export abs_top_srcdir abs_top_builddir CLAAS_TEST_MODEL PYTHONDONTWRITEBYTECODE
# shellcheck source=tests/e2e/testing.sh
. "$abs_top_srcdir/tests/e2e/testing.sh"

skip()
{
    echo "1..0 # SKIP $*"
    exit 77
}

for need in python3 curl jq; do
    command -v $need >/dev/null || skip "needs $need"
done
if ! "$python" -c 'import openai, httpx, requests' 2>/dev/null; then
    python3 -m venv "$venv" 2>"$work/log" || skip "needs the venv module of Python"
    "$venv/bin/pip" install -q openai httpx requests 2>"$work/log" ||
        skip "cannot install openai, httpx, requests: $(tail -1 "$work/log")"
fi

# tiny NAME [option…]: a daemon with a model that answers nonsense at once.
tiny()
{
    name=$1
    shift
    mkdir -p "$work/$name"
    start "$work/$name" "$work/$name/store" \
        --set "engine.model=$abs_top_srcdir/tests/data/golden/gqa_all_modules/model" --set engine.model_name=tiny/llama \
        --set engine.chat_template=chatml "$@"
}

# peer SCRIPT ARGUMENTS…: its TAP lines, counted here.
peer()
{
    script=$1
    shift
    "$python" "$here/$script" "$@" >"$work/tap" 2>&1 || failures=$((failures + 1))
    cat "$work/tap"
    n=$((n + $(grep -c '^\(not \)\{0,1\}ok ' "$work/tap")))
}

# The lines of the README between the two marks, on our port.
readme_loop()
{
    sed -n '/^    curl -s localhost:8080/,/^    curl -s .localhost:8080.*versions/p' "$src/README.md" | sed '/^$/d; /^[^ ]/d' |
        sed "s|localhost:8080|${url#http://}|; s|build/answer.json|$work/answer.json|" >"$work/readme.sh"
    grep -c curl "$work/readme.sh"
    sh -eu "$work/readme.sh" >"$work/readme.out" || return 1
    cat "$work/readme.out"
    equal "$(curl -s "$url/v1/adapters/versions?id=me/assistant" | jq -c '[.versions[] | [.version, .kind]]')" \
        '[[2,"step"],[1,"create"]]'
}

"$python" -c 'import openai, httpx, requests, sys; print("# Python", sys.version.split()[0], "openai", openai.__version__,
    "httpx", httpx.__version__, "requests", requests.__version__)'
echo "# $("$build/run-claasd" --version | head -1), $(curl --version | head -1 | cut -d' ' -f1-2)"

echo "# the tiny model, no keys"
tiny open
echo '{"lora_id": "me/tiny"}' | post /v1/lora/init >/dev/null
peer openai_client.py "$url/v1" me/tiny sk-dummy
peer python_system.py "$url" tiny/llama ""
stop "$daemon"

if [ -n "$CLAAS_TEST_MODEL" ]; then
    echo "# the real model, no keys"
    mkdir "$work/real"
    start "$work/real" "$work/real/store"
    peer openai_client.py "$url/v1" HuggingFaceTB/SmolLM2-135M-Instruct sk-dummy
    peer python_system.py "$url" HuggingFaceTB/SmolLM2-135M-Instruct ""
    ok "curl by the lines of the README" readme_loop
    stop "$daemon"
fi
done_testing
