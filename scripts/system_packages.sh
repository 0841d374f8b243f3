#!/bin/sh
# Debian's own servers for `make test-system` and `make bench`. Installs what is missing, or says what to install.
set -eu
missing=
for pair in nginx:nginx wrk:wrk rsyslogd:rsyslog redis-server:redis-server; do
    program=${pair%:*}
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing="$missing ${pair#*:}"
done
ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 || missing="$missing rsyslog-gnutls"
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null; then
        echo "bursar: missing:$missing; install them as root: apt-get install$missing" >&2
        exit 3
    fi
    as_root="sudo -n"
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "bursar: missing:$missing; this is not Debian, install them with your own package manager" >&2
    exit 3
fi
echo "bursar: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# nginx must not start a server of its own on port 80: the tests start theirs, unprivileged.
$as_root apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold $missing >/dev/null
