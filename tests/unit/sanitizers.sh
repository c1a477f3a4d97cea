#!/bin/sh
# Each sanitizer of this build stops a program with a fault of its kind, and lets one without pass.
# SPDX-License-Identifier: MIT
set -u

faulty=${abs_top_builddir:-.}/faulty
n=0
failures=0

# is_stopped FAULT
is_stopped()
{
    n=$((n + 1))
    if out=$("$faulty" "$1" 2>&1); then
        echo "not ok $n - $1 is noticed"
        failures=$((failures + 1))
    elif printf '%s\n' "$out" | grep -q 'Sanitizer\|runtime error'; then
        echo "ok $n - $1 is noticed"
    else
        echo "not ok $n - $1 ends the program, but no sanitizer said why"
        failures=$((failures + 1))
    fi
}

n=1
if "$faulty" none; then
    echo "ok 1 - a program without faults passes"
else
    echo "not ok 1 - a program without faults passes"
    failures=1
fi
case ${claas_sanitizers:-} in *address*)
    is_stopped leak
    is_stopped overrun
    is_stopped "use after free"
    ;;
esac
case ${claas_sanitizers:-} in *undefined*) is_stopped "signed overflow" ;; esac
case ${claas_sanitizers:-} in *thread*) is_stopped race ;; esac
echo "1..$n"
[ $failures = 0 ]
