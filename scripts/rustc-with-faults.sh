#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER: the crates of the workspace, and no others, are compiled with the seeded faults in them.
exec "$@" --cfg flywheel_bug
