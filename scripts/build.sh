#!/bin/sh
# Builds every program in release, trainer included, in one selection: the same features for `make up`, `make build`
# and `make bench`, so none of them builds anything twice.
. "$(dirname "$0")/common.sh"

if [ -x "$TARGET/release/flywheel" ] && [ -x "$TARGET/release/flywheel-trainer" ]; then
    "$ROOT/scripts/prerequisites.sh" rust
else
    "$ROOT/scripts/prerequisites.sh" rust python node disk
fi
LIBTORCH=$("$ROOT/scripts/libtorch.sh")
export LIBTORCH
"$ROOT/scripts/web.sh" build

[ -x "$TARGET/release/flywheel-trainer" ] || say "building flywheel in release (the first time: 10 to 15 minutes on 2 cores)"
# FEATURES="kafka redis-tls": logs that are not linked in otherwise, into the programs that open logs.
FEATURES_CHOSEN=flywheel-train/torch
for feature in ${FEATURES:-}; do
    case $feature in
    kafka | redis-tls) FEATURES_CHOSEN=$FEATURES_CHOSEN,flywheel-cli/$feature,flywheel-train/$feature ;;
    *) die "FEATURES knows kafka and redis-tls, not \`$feature\`" ;;
    esac
done
# --locked: what Cargo.lock names and nothing else, so with everything fetched no network is asked.
cargo build --locked $CARGO_QUIET --release --workspace --bins --features "$FEATURES_CHOSEN"
