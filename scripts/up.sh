#!/bin/sh
# Gets what is missing, builds, and runs `flywheel up` with the arguments given.
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/build.sh"
say "flywheel up $*"
exec "$TARGET/release/flywheel" up "$@"
