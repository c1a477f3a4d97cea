#!/bin/sh
# Every test that needs no GPU and no large peer: called by `./bootstrap check` with the source and build directories.
# Each stage is counted, a suite by its TAP results; the last line is the sum. SPDX-License-Identifier: MIT
set -u

root=$1
build=$2
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
passed=0
failed=0
skipped=0

# ---- helpers ----

say()
{
    printf '%s\n' "check: $*"
}

# The result files of the suite in build directory $1, but not of the trees below it that have suites of their own.
results()
{
    find "$1" \( -path "$1/claas-*" -o -path "$1/sanitized" \) -prune -o -name '*.trs' -print
}

# How many results in directory $1 are of the kinds $2.
results_of()
{
    results "$1" | xargs cat /dev/null | grep -c "^:test-result: \($2\)"
}

# What went wrong in the suite of directory $1, at length.
tell_failures()
{
    results "$1" | while read -r trs; do
        if grep -q '^:test-result: \(FAIL\|ERROR\|XPASS\)' "$trs"; then
            say "the end of ${trs%.trs}.log:"
            tail -25 "${trs%.trs}.log"
        fi
    done
}

# suite NAME DIRECTORY: `make check` there. That it breaks before or beside its tests, or has none, is a failure too.
suite()
{
    results "$2" | xargs rm -f
    start=$(date +%s)
    make -C "$2" -j"$jobs" -k check >"$2/check.out" 2>&1 </dev/null
    rc=$?
    p=$(results_of "$2" 'PASS\|XFAIL')
    f=$(results_of "$2" 'FAIL\|ERROR\|XPASS')
    s=$(results_of "$2" SKIP)
    say "$1: $p passed, $f failed, $s skipped ($(($(date +%s) - start)) s)"
    results "$2" | xargs grep -h '^:test-result: \(FAIL\|ERROR\|XPASS\|SKIP\)' /dev/null | sort | uniq -c | head -40
    tell_failures "$2"
    if [ "$f" = 0 ] && { [ $rc != 0 ] || [ "$p" = 0 ]; }; then
        say "$1: make check itself failed, or ran nothing; the end of $2/check.out:"
        tail -30 "$2/check.out"
        f=1
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
}

# stage NAME COMMAND…: what is one yes or no; 77 means that it cannot be run here, and its last line says why.
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
    return $rc
}

# ---- what stages do ----

lint_shell()
{
    cd "$root" || return 1
    scripts=$(find bootstrap autogen.sh .ci/run conf tests -path '*/.venv' -prune -o -type f \
        \( -name '*.sh' -o -path bootstrap -o -path .ci/run \) -print) || return 1
    # shellcheck disable=SC2086 # names without blanks
    shellcheck -s sh $scripts
}

# The tarball alone builds, passes its tests, installs and uninstalls, all from a source tree it cannot write to. The
# real model stays out: it has been asked already.
distcheck()
{
    env -u CLAAS_TEST_MODEL make -C "$build" -j"$jobs" distcheck DISTCHECK_CONFIGURE_FLAGS=
}

build_sanitized()
{
    mkdir -p "$build/sanitized" && cd "$build/sanitized" || return 1
    if [ ! -f Makefile ]; then
        "$root/configure" -q --enable-sanitizers=address,undefined || return 1
    fi
    make -j"$jobs" -s all
}

# So many daemons killed, what they had said checked; the seeds are other ones every day.
crash_runs()
{
    abs_top_builddir=$1 "$1/test_crash" --runs "$2" --pairs "$3" --from "$(date +%Y%m%d)"
}

# ---- stages ----

suite "make check" "$build"
stage "demo" "$root/conf/demo.sh" "$build" "$CLAAS_TEST_MODEL"
stage "clients: openai, the Python system's, curl" "$root/tests/peers/clients/run.sh" "$build" "$CLAAS_TEST_MODEL"
stage "shellcheck" lint_shell
stage "install, plugin by pkg-config, uninstall" "$root/tests/e2e/install.sh" "$build"
stage "2000 runs of daemons that are killed" crash_runs "$build" 1600 400
sed -n 's/^# /check: /p' "$build/stage-2000-runs-of-daemons-that-are-killed.log"
stage "distcheck" distcheck
if stage "build with sanitizers" build_sanitized; then
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
    UBSAN_OPTIONS=print_stacktrace=1
    export ASAN_OPTIONS UBSAN_OPTIONS
    suite "make check with sanitizers of addresses and undefined behaviour" "$build/sanitized"
fi

printf '%s\n' "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
