# Shared by the scripts beside this file; sourced, not run. Results of a script go to stdout, all talk to stderr.
# shellcheck shell=sh

set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
cd "$ROOT"

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$(printf '\033[1m') RED=$(printf '\033[31m') YELLOW=$(printf '\033[33m') PLAIN=$(printf '\033[0m')
else
    BOLD='' RED='' YELLOW='' PLAIN=''
fi

say() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*" >&2; }
warn() { printf '%swarning:%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }

# die WHAT [HOW TO MEND IT]...
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The command that installs PACKAGE... on this system, for a person to copy.
install_hint() {
    # Root needs no sudo, and many machines have none.
    if [ "$(id -u)" = 0 ]; then sudo=''; else sudo='sudo '; fi
    if have apt-get; then
        printf '%sapt-get install -y %s' "$sudo" "$*"
    elif have dnf; then
        printf '%sdnf install -y %s' "$sudo" "$*"
    elif have pacman; then
        printf '%spacman -S --needed %s' "$sudo" "$*"
    elif have brew; then
        printf 'brew install %s' "$*"
    else
        printf 'install %s with the package manager of your system' "$*"
    fi
}

# run_quietly WHAT LOG COMMAND...: keeps the output in LOG and shows its end only when the command fails.
run_quietly() {
    what=$1 log=$2
    shift 2
    mkdir -p "$(dirname "$log")"
    if ! "$@" >"$log" 2>&1; then
        tail -n 25 "$log" >&2
        die "$what failed; the lines above are the end of $log" \
            "if a package could not be fetched: is the network there? run the same command again, it goes on from here"
    fi
}

# Cargo shows its progress to a person and keeps quiet in a pipe.
if [ -t 2 ]; then CARGO_QUIET=''; else CARGO_QUIET=--quiet; fi

# shellcheck disable=SC2034  # used by the scripts that source this file
PYTHON=${PYTHON:-python3}
LIBTORCH_DIR=$ROOT/.libtorch
VENV_DIR=$ROOT/.venv
WEB_DIR=$ROOT/dashboards/web
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

requires() { case ",${FLYWHEEL_REQUIRE:-}," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }

# Features of every build of tests: one selection, so that nothing is built twice. Scenarios with a broker start programs
# that speak to it.
test_features() {
    printf 'flywheel-train/torch'
    ! requires kafka || printf ',flywheel-cli/kafka,flywheel-train/kafka'
}
