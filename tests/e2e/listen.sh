#!/bin/sh
# Where claasd listens: a Unix socket with its owner's rights, HTTPS with a certificate that a reload replaces, keys made and
# revoked while it runs. No model is needed. SPDX-License-Identifier: MIT
set -u

# shellcheck source=tests/e2e/testing.sh
. "${abs_top_srcdir:-.}/tests/e2e/testing.sh"
for tool in curl openssl jq; do
    if ! command -v $tool >/dev/null; then
        echo "1..0 # SKIP needs $tool"
        exit 0
    fi
done

state=$work/state
socket=$work/claasd.sock
conf=$work/claasd.yaml
{
    echo "listen: 127.0.0.1:0"
    echo "state_dir: $state"
    printf 'storage:\n  plugin: fs\n  root: %s/store\n' "$work"
} >"$conf"

# open_at [--set …]: claasd without an engine, until its log says that it is ready.
open_at()
{
    : >"$work/log"
    "$build/run-claasd" -c "$conf" "$@" 2>>"$work/log" &
    daemon=$!
    daemons="$daemons $daemon"
    tries=0
    until grep -q 'server: ready' "$work/log"; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ] || ! kill -0 "$daemon" 2>/dev/null; then
            tail -3 "$work/log"
            return 1
        fi
        sleep 0.05
    done
}

claas()
{
    "$build/run-claas" "$@"
}

# at_socket PATH: the status over the Unix socket.
at_socket()
{
    curl -sS --max-time 20 --unix-socket "$socket" -o "$work/answer" -w '%{http_code}' "http://localhost$1"
}

serves_a_socket()
{
    open_at --set "listen=unix:$socket" --set access.keys=on || return 1
    equal "$(stat -c '%F %a' "$socket")" "socket 660" || return 1
    equal "$(at_socket /v1/rollouts)" 200 || return 1 # its own user, without a key
    claas --url "unix:$socket" health
}

# A user who is nobody to claasd needs a key there too.
strangers_need_a_key()
{
    [ "$(id -u)" = 0 ] || { echo "only root can be somebody else: not tried"; return 0; }
    chmod 755 "$work" && chmod 666 "$socket"
    setpriv --reuid 65534 --clear-groups curl -sS --max-time 20 --unix-socket "$socket" -o /dev/null -w '%{http_code}' \
        http://localhost/v1/rollouts >"$work/status"
    equal "$(cat "$work/status")" 401
}

# The second one must fail, and the first go on.
socket_is_kept()
{
    "$build/run-claasd" -c "$conf" --set "listen=unix:$socket" --set "state_dir=$work/other" 2>"$work/second"
    equal $? 1 && grep "somebody does already" "$work/second" && equal "$(at_socket /health)" 200
}

socket_is_removed()
{
    stop "$daemon" && [ ! -e "$socket" ]
}

# What a killed daemon left is replaced; anything else in the way is not.
socket_is_replaced()
{
    open_at --set "listen=unix:$socket" || return 1
    kill -9 "$daemon"
    ended "$daemon"
    [ -S "$socket" ] || return 1
    open_at --set "listen=unix:$socket" && stop "$daemon" || return 1
    echo precious >"$socket"
    "$build/run-claasd" -c "$conf" --set "listen=unix:$socket" 2>"$work/second"
    equal $? 1 && grep "something else than a socket" "$work/second" && equal "$(cat "$socket")" precious
}

# certificate NAME: for 127.0.0.1, by an authority of our own.
certificate()
{
    if [ ! -f "$work/ca.pem" ]; then
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=test authority" \
            -keyout "$work/ca.key" -out "$work/ca.pem" || return 1
    fi
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1.key" \
        -out "$work/$1.csr" || return 1
    printf 'subjectAltName=IP:127.0.0.1\n' >"$work/ext"
    openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -extfile "$work/ext" -out "$work/$1.pem"
}

shown()
{
    curl -sSv --max-time 20 --cacert "$work/ca.pem" "$url/health" 2>&1 | grep -o 'subject: CN=.*'
}

speaks_https()
{
    certificate first && certificate second && cp "$work/first.pem" "$work/cert.pem" && cp "$work/first.key" "$work/key.pem" &&
        chmod 600 "$work/key.pem" || return 1
    open_at --set "tls.certificate=$work/cert.pem" --set "tls.key=$work/key.pem" || return 1
    port=$(cat "$state/claasd.port")
    url=https://127.0.0.1:$port
    equal "$(shown)" "subject: CN=first" || return 1
    claas --url "$url" --ca-file "$work/ca.pem" health || return 1
    ! claas --url "$url" health || return 1
    ! curl -s --max-time 20 "http://127.0.0.1:$port/health" || return 1
    ! curl -s --max-time 20 --cacert "$work/ca.pem" --tls-max 1.1 "$url/health"
}

# A key that is not the certificate's changes nothing; a pair that fits is shown from then on.
certificate_is_replaced()
{
    cp "$work/second.pem" "$work/cert.pem"
    kill -HUP "$daemon"
    tries=0
    until grep -q 'not the key of tls.certificate' "$work/log"; do
        tries=$((tries + 1))
        [ $tries -le 100 ] || return 1
        sleep 0.05
    done
    equal "$(shown)" "subject: CN=first" || return 1
    cp "$work/second.key" "$work/key.pem"
    kill -HUP "$daemon"
    tries=0
    until [ "$(shown)" = "subject: CN=second" ]; do
        tries=$((tries + 1))
        [ $tries -le 100 ] || return 1
        sleep 0.05
    done
    stop "$daemon"
}

open_keys_are_refused()
{
    chmod 644 "$work/key.pem"
    "$build/run-claasd" -c "$conf" --set "tls.certificate=$work/cert.pem" --set "tls.key=$work/key.pem" 2>"$work/second" &&
        return 1
    grep "no others may read it" "$work/second"
}

network_needs_keys()
{
    "$build/run-claasd" -t -c "$conf" --set listen=0.0.0.0:0 2>"$work/second"
    equal $? 6 && grep "access: {keys: on}" "$work/second" || return 1
    "$build/run-claasd" -t -c "$conf" --set listen=0.0.0.0:0 --set access.keys=on
}

# Nobody needs a key until there is one; a revoked one is out within a second.
keys_count_at_once()
{
    open_at || return 1
    url=http://127.0.0.1:$(cat "$state/claasd.port")
    equal "$(status_of /v1/rollouts)" 200 || return 1
    key=$(claas key add test --state-dir "$state" --rights chat --quiet) || return 1
    sleep 1
    equal "$(status_of /v1/rollouts)" 401 && equal "$(status_of /v1/rollouts -H "Authorization: Bearer $key")" 200 || return 1
    equal "$(status_of /v1/jobs -H "Authorization: Bearer $key")" 403 || return 1
    printf '%s\n' "$key" >"$work/key"
    claas --url "$url" --api-key-file "$work/key" rollout list || return 1
    claas key list --state-dir "$state" --json | jq -e '.[0].name == "test" and .[0].rights == "chat"' || return 1
    id=$(claas key list --state-dir "$state" --json | jq -r '.[0].id')
    claas key revoke "$id" --state-dir "$state" || return 1
    sleep 1
    equal "$(status_of /v1/rollouts -H "Authorization: Bearer $key")" 401 || return 1
    ! grep -q "$key" "$work/log" && stop "$daemon"
}

ok "a Unix socket serves its owner without a key" serves_a_socket
ok "others need a key there" strangers_need_a_key
ok "a socket that somebody listens at is not taken" socket_is_kept
ok "an orderly end removes the socket" socket_is_removed
ok "a socket left behind is replaced, a file is not" socket_is_replaced
ok "HTTPS is spoken, and nothing older or plainer" speaks_https
ok "a reload replaces the certificate, if it is a pair" certificate_is_replaced
ok "a private key that others can read is refused" open_keys_are_refused
ok "beyond loopback keys must be on" network_needs_keys
ok "keys count as soon as they are made, and no more when revoked" keys_count_at_once
done_testing
