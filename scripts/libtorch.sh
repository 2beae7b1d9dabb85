#!/bin/sh
# Gets libtorch into .libtorch and prints the path that LIBTORCH must have.
#
# The wheel of PyPI and the two NVIDIA libraries that its CPU code is linked with: 544 MB on the wire, about a
# minute. The stamp is written last, so an install that was interrupted is done again.
# usage: scripts/libtorch.sh [--path-only]      --path-only: fail instead of installing
. "$(dirname "$0")/common.sh"

VERSION=2.11.0
STAMP=$LIBTORCH_DIR/.flywheel-libtorch-$VERSION

torch_folder() {
    for folder in "$LIBTORCH_DIR"/lib/python3.*/site-packages/torch; do
        [ -f "$folder/lib/libtorch_cpu.so" ] || [ -f "$folder/lib/libtorch_cpu.dylib" ] || continue
        printf '%s\n' "$folder"
        return 0
    done
    return 1
}

is_complete() {
    [ -f "$STAMP" ] && folder=$(torch_folder) && grep -q "^__version__ = '$VERSION" "$folder/version.py"
}

if ! is_complete; then
    [ "${1:-}" != --path-only ] || die "libtorch $VERSION is not in $LIBTORCH_DIR" "get it with: make libtorch"
    "$ROOT/scripts/prerequisites.sh" python
    say "getting libtorch $VERSION into .libtorch (544 MB, usually a minute or two)"
    rm -rf "$LIBTORCH_DIR"
    log=$TARGET/logs/libtorch.log
    run_quietly "making the folder for libtorch" "$log" "$PYTHON" -m venv "$LIBTORCH_DIR"
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) set -- "torch==$VERSION" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 ;;
    *)
        warn "libtorch was tried on Linux x86_64 only; this is $(uname -s) $(uname -m)"
        set -- "torch==$VERSION"
        ;;
    esac
    run_quietly "getting libtorch" "$log" \
        "$LIBTORCH_DIR/bin/pip" install --no-cache-dir --no-deps --no-input "$@"
    folder=$(torch_folder) || die "the torch wheel holds no libtorch_cpu" "see $log"
    grep -q "^__version__ = '$VERSION" "$folder/version.py" ||
        die "the libtorch in $folder is not version $VERSION" "remove $LIBTORCH_DIR and run this again"
    sync
    touch "$STAMP"
fi
torch_folder
