#!/bin/sh
# Gets the Python packages of a set into .venv and prints the interpreter's path.
#   test   what reads our tables in the tests: deltalake, DuckDB, Polars, pyarrow (about 90 MB)
#   s3     servers of the S3 tests: SeaweedFS and moto (FLYWHEEL_REQUIRE=s3)
#   peers  what `flywheel bench --peer` compares with: cpprb, DuckDB, ONNX Runtime, and what `import torch` needs beside .libtorch
# The versions are pinned in scripts/requirements-SET.txt; a stamp with their checksum is written last.
# usage: scripts/venv.sh test|s3|peers
. "$(dirname "$0")/common.sh"

set_name=${1:-}
wanted=$ROOT/scripts/requirements-$set_name.txt
[ -f "$wanted" ] || die "unknown package set \`$set_name\`" "usage: scripts/venv.sh test|s3|peers"
stamp=$VENV_DIR/.flywheel-$set_name-$(cksum <"$wanted" | tr -d ' ')

if [ ! -f "$stamp" ] || [ ! -x "$VENV_DIR/bin/python" ]; then
    "$ROOT/scripts/prerequisites.sh" python
    say "getting the Python packages of the set \`$set_name\` into .venv (usually less than a minute)"
    log=$TARGET/logs/venv-$set_name.log
    if [ ! -x "$VENV_DIR/bin/python" ] || ! "$VENV_DIR/bin/python" -c 'import pip' 2>/dev/null; then
        rm -rf "$VENV_DIR"
        run_quietly "making .venv" "$log" "$PYTHON" -m venv "$VENV_DIR"
    fi
    run_quietly "getting the packages of $wanted" "$log" \
        "$VENV_DIR/bin/pip" install --no-input --disable-pip-version-check -r "$wanted"
    if [ "$set_name" = peers ]; then
        "$ROOT/scripts/libtorch.sh" >/dev/null
        run_quietly "making torch importable for the peers" "$log" \
            "$VENV_DIR/bin/python" scripts/torch_for_peers.py "$LIBTORCH_DIR"
    fi
    rm -f "$VENV_DIR"/.flywheel-"$set_name"-*
    touch "$stamp"
fi
printf '%s\n' "$VENV_DIR/bin/python"
