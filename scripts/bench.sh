#!/bin/sh
# Gets the peers that the benches compare with and runs `flywheel bench` with the arguments given.
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/build.sh"
FLYWHEEL_PYTHON=$("$ROOT/scripts/venv.sh" peers)
export FLYWHEEL_PYTHON
[ $# -gt 0 ] || set -- --peer
say "flywheel bench $*"
exec "$TARGET/release/flywheel" bench "$@"
