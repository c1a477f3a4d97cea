#!/bin/sh
# Installs into a scratch directory, builds a plugin against the installed headers with pkg-config alone, loads it with
# the installed claas, uninstalls, and finds nothing left: install.sh BUILD_DIR. SPDX-License-Identifier: MIT
set -eu

build=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/claas-install.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail()
{
    echo "install: $*" >&2
    exit 1
}

make -C "$build" -s install DESTDIR="$work/root" >"$work/log" 2>&1 || { cat "$work/log"; fail "make install failed"; }
pc=$(find "$work/root" -name claas.pc)
[ -n "$pc" ] || fail "no claas.pc"
[ -z "$(find "$work/root" -name '*.la')" ] || fail "libtool archives were installed"
claas=$(find "$work/root" -type f -name claas -perm -100)
claasd=$(find "$work/root" -type f -name claasd -perm -100)
"$claas" --version
"$claasd" --version
for page in claas.1 claasd.8 claasd.yaml.5 claas-cpu.7 claas-fs.7; do
    [ -n "$(find "$work/root" -name "$page*")" ] || fail "the page $page was not installed"
done

cat >"$work/probe.c" <<'C'
#include <claas/plugin.h>

static int probe_open(const struct claas_host *host, uint32_t kinds, const struct claas_value *values,
                      const struct claas_call *call, void **out_self, struct claas_error *err)
{
    (void)host; (void)kinds; (void)values; (void)call; (void)err;
    *out_self = 0;
    return 0;
}
static void probe_close(void *self) { (void)self; }
static int probe_encode(void *self, const char *text, size_t n, uint32_t flags, struct claas_sink *ids,
                        struct claas_error *err)
{
    (void)self; (void)text; (void)n; (void)flags; (void)ids; (void)err;
    return 0;
}
static int probe_decode(void *self, const int32_t *ids, size_t n, uint32_t flags, struct claas_sink *text,
                        struct claas_error *err)
{
    (void)self; (void)ids; (void)n; (void)flags; (void)text; (void)err;
    return 0;
}
static const struct claas_text text = { .size = sizeof text, .encode = probe_encode, .decode = probe_decode };
static const struct claas_plugin plugin = {
    .size = sizeof plugin, .abi = CLAAS_ABI, .name = "probe", .version = "1", .summary = "an outsider",
    .licence = "MIT", .flags = CLAAS_PARALLEL, .option_size = sizeof(struct claas_option),
    .open = probe_open, .close = probe_close, .text = &text,
};
const struct claas_plugin *claas_plugin_entry(uint32_t host_abi)
{
    return host_abi == CLAAS_ABI ? &plugin : 0;
}
C
PKG_CONFIG_PATH=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$work/root
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
mkdir -m 755 "$work/plugins"
# shellcheck disable=SC2046 # flags are words
${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden $(pkg-config --cflags claas) \
    -o "$work/plugins/probe.so" "$work/probe.c"
chmod 755 "$work/plugins/probe.so"
CLAAS_PLUGIN_PATH=$work/plugins "$claas" plugin show probe
CLAAS_PLUGIN_PATH=$(dirname "$(find "$work/root" -name fs.so)") "$claas" plugin list

make -C "$build" -s uninstall DESTDIR="$work/root" >"$work/log" 2>&1 || { cat "$work/log"; fail "uninstall failed"; }
left=$(find "$work/root" -type f -o -type l)
[ -z "$left" ] || fail "uninstall left $left"
