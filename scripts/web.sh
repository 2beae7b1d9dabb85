#!/bin/sh
# Gets the page's npm packages and builds it into dashboards/web/dist, each only when its sources have changed.
# usage: scripts/web.sh [install|build]      (default: build)
. "$(dirname "$0")/common.sh"

goal=${1:-build}
[ -f "$WEB_DIR/package.json" ] || die "there is no page in $WEB_DIR"
cd "$WEB_DIR"

installed=node_modules/.flywheel-installed
built=node_modules/.flywheel-built
log=$TARGET/logs/web.log

# By content: a checkout that only touches the lock file must not send npm to the network.
lock=$(cksum <package-lock.json)
fresh_install() { [ -f "$installed" ] && [ "$(cat "$installed")" = "$lock" ]; }
fresh_build() {
    [ -f "$built" ] && [ -f dist/index.html ] || return 1
    newer=$(find . \( -name node_modules -o -name dist -o -name test-results \) -prune -o -type f -newer "$built" -print | head -n 1)
    [ -z "$newer" ]
}

if [ "$goal" = install ] && fresh_install; then exit 0; fi
if [ "$goal" = build ] && fresh_build; then exit 0; fi
"$ROOT/scripts/prerequisites.sh" node

if ! fresh_install; then
    say "getting the page's packages with npm (usually less than a minute)"
    run_quietly "npm ci in dashboards/web" "$log" npm ci --no-audit --no-fund --loglevel=error
    printf '%s\n' "$lock" >"$installed"
fi
if [ "$goal" = build ]; then
    say "building the page (usually 10 seconds)"
    run_quietly "npm run build in dashboards/web" "$log" npm run build --silent
    touch "$built"
fi
