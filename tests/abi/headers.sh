#!/bin/sh
# Each public header alone, in every language a plugin may be written in, with all warnings as errors. As TAP.
# SPDX-License-Identifier: MIT
set -u

src=${abs_top_srcdir:?}
work=$(mktemp -d "${TMPDIR:-/tmp}/claas-headers.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
n=0

# compile COMPILER STANDARD LANGUAGE HEADER
compile()
{
    n=$((n + 1))
    printf '#include <claas/%s>\n#include <claas/%s>\nint probe_%s(void);\nint probe_%s(void) { return 0; }\n' \
        "$4" "$4" "$n" "$n" >"$work/probe.$3"
    # shellcheck disable=SC2086 # CC and CXX may carry flags
    if $1 -std="$2" -pedantic -Wall -Wextra -Wpadded -Werror -I"$src/include" -c -o "$work/probe.o" \
        "$work/probe.$3" >"$work/log" 2>&1; then
        echo "ok $n - $4 as $2"
    else
        echo "not ok $n - $4 as $2"
        sed 's/^/# /' "$work/log"
    fi
}

for header in "$src"/include/claas/*.h; do
    name=$(basename "$header")
    compile "${CC:-cc}" c99 c "$name"
    compile "${CC:-cc}" c11 c "$name"
    compile "${CXX:-c++}" c++11 cc "$name"
done
echo "1..$n"
