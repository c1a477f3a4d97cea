#!/bin/sh
# The manual pages: no warnings, no page named that does not exist, every option of claasd told. SPDX-License-Identifier: MIT
set -u

build=${abs_top_builddir:-.}
src=${abs_top_srcdir:-.}
n=0
failures=0

if ! command -v mandoc >/dev/null; then
    echo "1..0 # SKIP needs mandoc"
    exit 0
fi

# ok NAME COMMAND…: one TAP line.
ok()
{
    n=$((n + 1))
    name=$1
    shift
    if out=$("$@" 2>&1); then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        printf '%s\n' "$out" | sed 's/^/# /'
        failures=$((failures + 1))
    fi
}

# Our own pages among those that $1 refers to are there; others are the system's.
references_lead_somewhere()
{
    missing=$(sed -n 's/^\.Xr \(claas[a-z.-]*\) \([0-9]\).*/\1.\2/p' "$1" | sort -u | while read -r page; do
        [ -f "$src/man/$page" ] || echo "$page"
    done)
    [ -z "$missing" ] || { echo "there is no page $missing"; return 1; }
}

# Every option that `claasd --help` names, short or long.
options_are_told()
{
    untold=$("$build/claasd" --help | sed 1,2d | sed -n 's/^  -\{1,2\}\([A-Za-z-]*\).*/\1/p' | while read -r option; do
        case $option in
        ?) grep -q "^\.It Fl $option\( \|\$\)" "$src/man/claasd.8" || echo "-$option" ;;
        *) grep -q "^\.It Fl Fl $option\( \|\$\)" "$src/man/claasd.8" || echo "--$option" ;;
        esac
    done)
    [ -z "$untold" ] || { echo "claasd.8 does not tell $untold"; return 1; }
}

for page in "$src"/man/*.[0-9]; do
    page_name=$(basename "$page")
    # Style is what mandoc thinks of long lines and of pages that are not installed yet: not judged.
    ok "$page_name has no warnings" mandoc -Tlint -Wwarning "$page"
    ok "$page_name refers to pages that exist" references_lead_somewhere "$page"
done
ok "claasd.8 tells the options" options_are_told
echo "1..$n"
[ $failures = 0 ]
