#!/bin/sh
# The units for systemd, as systemd itself sees them: nothing it does not know or warns of, and little left open.
# SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"

if ! command -v systemd-analyze >/dev/null; then
    echo "1..0 # SKIP needs systemd-analyze (package systemd)"
    exit 0
fi

# It wants the programme to be there, which is not installed; pages too.
mkdir "$work/units"
sed "s|^ExecStart=.*|ExecStart=$build/run-claasd|; /^Documentation=/d" "$build/conf/claasd.service" >"$work/units/claasd.service"
sed '/^Documentation=/d' "$src/conf/claasd.socket" >"$work/units/claasd.socket"
SYSTEMD_UNIT_PATH=$work/units:
export SYSTEMD_UNIT_PATH

# Of our files; others on this machine may have faults of their own.
verifies()
{
    systemd-analyze verify "$work/units/$1" >"$work/said" 2>&1
    ! grep -e "$work/units" -e '^claasd' -e 'Unknown' "$work/said"
}

# What it reckons is open, of 100 tenths; 2.0 is "OK" by its words.
is_closed()
{
    systemd-analyze security --offline=true --threshold=20 "$work/units/claasd.service" && return 0
    return 1
}

has_no_place_of_ours()
{
    grep -q '^ExecStart=/.*/claasd$' "$build/conf/claasd.service" && ! grep '@' "$build/conf/claasd.service" | grep -v SystemCallFilter
}

ok "the service is known to systemd" verifies claasd.service
ok "and the socket" verifies claasd.socket
ok "little is left open" is_closed
ok "the service has its programme" has_no_place_of_ours
done_testing
