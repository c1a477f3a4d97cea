#!/bin/sh
# Hunts with libFuzzer: fuzz.sh SOURCE BUILD TARGET SECONDS, by `make fuzz TARGET=… SECONDS=…`. What reaches new code is
# collected in BUILD/fuzzing/found/TARGET; what breaks lies in BUILD/fuzzing as crash-…, leak-…, timeout-… or oom-….
# SPDX-License-Identifier: MIT
set -eu

source=$1
target=$3
seconds=${4:-60}
dir=$2/fuzzing

command -v clang >/dev/null 2>&1 || {
    echo "fuzzing needs clang (Debian: apt-get install clang)" >&2
    exit 1
}
if [ -z "$target" ] || [ ! -d "$source/tests/fuzz/corpus/$target" ]; then
    echo "usage: make fuzz TARGET=NAME SECONDS=N; names:" "$(ls "$source/tests/fuzz/corpus")" >&2
    exit 1
fi
mkdir -p "$dir/found/$target"
cd "$dir"
[ -f Makefile ] || "$source/configure" -q CC=clang CXX=clang++ CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' \
    --enable-sanitizers=address,undefined
make -s "fuzz_$target" AM_LDFLAGS=-fsanitize=fuzzer
exec "./fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2000 -malloc_limit_mb=500 \
    "found/$target" "$source/tests/fuzz/corpus/$target"
