#!/bin/sh
# Removes what `flywheel up` has stored: events, tables, models. Asks first; builds and downloads stay.
# usage: scripts/clean-data.sh [FOLDER]      (default: ./data)      YES=1: do not ask
. "$(dirname "$0")/common.sh"

folder=${1:-$ROOT/data}
if [ ! -e "$folder" ]; then
    say "$folder is not there: nothing to remove"
    exit 0
fi
[ -f "$folder/VERSION" ] || die "$folder has no file VERSION, so it is not a data folder of flywheel; nothing was removed"
if [ "${YES:-}" != 1 ]; then
    [ -t 0 ] || die "this removes $folder for good; say so with: make clean-data YES=1"
    printf 'remove %s (%s) for good? [y/N] ' "$folder" "$(du -sh "$folder" | cut -f1)" >&2
    read -r answer
    case $answer in y | Y | yes) ;; *) die "nothing was removed" ;; esac
fi
rm -rf "$folder"
say "removed $folder"
