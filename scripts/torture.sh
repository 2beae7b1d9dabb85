#!/bin/sh
# The long form of `flywheel torture`: kills and power cuts by the hundred, on each log, into target/torture/*.json.
# KILLS, CUTS and SEED change the numbers. About 10 minutes with the defaults on 2 cores.
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/build.sh"
cargo build --locked $CARGO_QUIET --release -p flywheel-powercut
reports=$TARGET/torture
mkdir -p "$reports"
KILLS=${KILLS:-200} CUTS=${CUTS:-50}
[ -z "${SEED:-}" ] || set -- --seed "$SEED" "$@"

# torture NAME WORDS...: one run, with its report.
torture() {
    torture_name=$1
    shift
    say "$torture_name: flywheel torture $*"
    "$TARGET/release/flywheel" torture --report "$reports/$torture_name.json" "$@"
}

torture embedded-kills --kills "$KILLS" "$@"
torture embedded-faults --kills "$KILLS" --faults "$@"
torture embedded-cuts --kills 0 --cuts "$CUTS" "$@"
if have redis-server; then
    torture redis-kills --log redis --kills "$KILLS" "$@"
    torture redis-cuts --log redis --kills 0 --cuts "$CUTS" "$@"
    # The counter-test: here events must be lost, and only such as were promised no more than memory.
    if torture redis-everysec --log redis:everysec --kills 0 --cuts 15 "$@"; then
        die "no loss was seen under appendfsync everysec, so the cuts cut nothing"
    fi
    "$PYTHON" - "$reports/redis-everysec.json" <<'PY' || die "what was promised as durable was lost under appendfsync everysec"
import json, sys
lost = json.load(open(sys.argv[1]))["lost"]
sys.exit(0 if lost["memory"] > 0 and lost["durable"] == 0 else 1)
PY
else
    warn "SKIPPED: power cuts under Redis ($(install_hint redis-server))"
fi
say "the reports are in $reports"
