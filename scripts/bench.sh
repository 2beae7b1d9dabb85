#!/bin/sh
# Gets the peers that the benches compare with and runs `flywheel bench` with the arguments given.
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/build.sh"
FLYWHEEL_PEER_PYTHON=$("$ROOT/scripts/venv.sh" peers)
LIBTORCH=$("$ROOT/scripts/libtorch.sh" --path-only)
# `import torch` finds the wheel in .libtorch: the peer and our trainer run the same libtorch.
FLYWHEEL_PEER_TORCH=$(dirname "$LIBTORCH")
export FLYWHEEL_PEER_PYTHON FLYWHEEL_PEER_TORCH
[ $# -gt 0 ] || set -- --peer
say "flywheel bench $*"
exec "$TARGET/release/flywheel" bench "$@"
