#!/bin/sh
# Every fuzz target reads its corpus, and RUNS mutations of it drawn from SEED. SPDX-License-Identifier: MIT
set -u

build=${abs_top_builddir:-.}
corpora=${abs_top_srcdir:-.}/tests/fuzz/corpus
seed=${SEED:-1}
runs=${RUNS:-10000}
n=0
failures=0

for corpus in "$corpora"/*; do
    n=$((n + 1))
    target=${corpus##*/}
    last=$build/fuzz_$target.last
    if out=$("$build/fuzz_$target" -r "$runs" -s "$seed" -k "$last" "$corpus" 2>&1); then
        echo "ok $n - $target: $out"
        rm -f "$last"
    else
        printf '%s\n' "$out" | tail -40 | sed 's/^/# /'
        echo "not ok $n - $target: the input is in $last, behind eight bytes of its length"
        failures=$((failures + 1))
    fi
done
echo "1..$n"
[ $failures = 0 ]
