#!/bin/sh
# Every test that needs no GPU and no large peer: called by `./bootstrap check` with the source and build directories.
# Each stage is counted from its TAP results; the last line is the sum. SPDX-License-Identifier: MIT
set -u

root=$1
build=$2
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
passed=0
failed=0
skipped=0

say()
{
    printf '%s\n' "check: $*"
}

# Adds up the results of `make check` in directory $1.
count()
{
    logs=$(find "$1" -name '*.trs' -not -path '*/claas-*/*')
    # shellcheck disable=SC2086
    p=$(cat $logs /dev/null | grep -c '^:test-result: \(PASS\|XFAIL\)')
    # shellcheck disable=SC2086
    f=$(cat $logs /dev/null | grep -c '^:test-result: \(FAIL\|ERROR\|XPASS\)')
    # shellcheck disable=SC2086
    s=$(cat $logs /dev/null | grep -c '^:test-result: SKIP')
    say "$2: $p passed, $f failed, $s skipped"
    # shellcheck disable=SC2086
    grep -h '^:test-result: \(FAIL\|ERROR\|XPASS\|SKIP\)' $logs /dev/null | sort | uniq -c | sort -rn | head -40
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
}

# A stage that is one yes or no.
stage()
{
    name=$1
    shift
    start=$(date +%s)
    log=$build/stage-$(printf '%s' "$name" | tr -c 'a-z0-9\n' -).log
    "$@" >"$log" 2>&1 </dev/null
    rc=$?
    took=$(($(date +%s) - start))
    if [ $rc = 0 ]; then
        say "$name: passed ($took s)"
        passed=$((passed + 1))
    elif [ $rc = 77 ]; then
        say "$name: SKIPPED: $(tail -1 "$log")"
        skipped=$((skipped + 1))
    else
        say "$name: FAILED ($took s); the end of $log:"
        tail -40 "$log"
        failed=$((failed + 1))
    fi
}

# `make check` in directory $1 (built before); a build that fails counts as one failure.
suite()
{
    find "$1" -name '*.trs' -not -path '*/claas-*/*' -delete
    start=$(date +%s)
    make -C "$1" -j"$jobs" -k check >"$1/check.out" 2>&1 </dev/null
    rc=$?
    before=$failed
    count "$1" "$2 ($(($(date +%s) - start)) s)"
    if [ $rc != 0 ] && [ "$failed" = "$before" ]; then
        say "$2: make check failed before or beside its tests; the end of $1/check.out:"
        tail -30 "$1/check.out"
        failed=$((failed + 1))
    fi
    if [ "$failed" != "$before" ]; then
        find "$1" -name '*.trs' -not -path '*/claas-*/*' | while read -r trs; do
            if grep -q '^:test-result: \(FAIL\|ERROR\)' "$trs"; then
                say "the end of ${trs%.trs}.log:"
                tail -25 "${trs%.trs}.log"
            fi
        done
    fi
}

sanitized()
{
    san=$build/sanitized
    mkdir -p "$san"
    [ -f "$san/Makefile" ] || (cd "$san" && "$root/configure" -q --enable-sanitizers=address,undefined) || return 1
    make -C "$san" -j"$jobs" -s all
}

lint_shell()
{
    (cd "$root" && git ls-files '*.sh' bootstrap .ci/run 2>/dev/null || echo bootstrap) |
        (cd "$root" && xargs shellcheck -s sh)
}

suite "$build" "make check"
demo()
{
    # The engine plugin is not finished (NOTES.md): said loudly and counted as skipped, until there is a cpu.so.
    [ -f "$build/.libs/cpu.so" ] || { echo "this tree builds no cpu.so yet, so there is no engine to show"; return 77; }
    "$root/conf/demo.sh" "$build" "$CLAAS_TEST_MODEL"
}
stage "demo" demo
stage "shellcheck" lint_shell
stage "install, plugin by pkg-config, uninstall" long "$root/tests/e2e/install.sh" "$build"
# The long stages wait for a session that can run them to the end: CLAAS_CHECK_LONG=1 ./bootstrap check
long()
{
    [ "${CLAAS_CHECK_LONG:-}" = 1 ] || { echo "set CLAAS_CHECK_LONG=1 to run it"; return 77; }
    "$@"
}
stage "distcheck" long make -C "$build" -j"$jobs" distcheck DISTCHECK_CONFIGURE_FLAGS=
stage "sanitized build" long sanitized
if [ -f "$build/sanitized/Makefile" ]; then
    suite "$build/sanitized" "make check with address and undefined-behaviour sanitizers"
fi

printf '%s\n' "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
