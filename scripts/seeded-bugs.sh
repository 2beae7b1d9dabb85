#!/bin/sh
# Are the tests any good? Builds the workspace once with all seeded faults asleep in it (cfg flywheel_bug), wakes one
# after the other by FLYWHEEL_BUG, and shows that a short torture or a test finds it. Without a fault all must pass.
# Names as arguments: only these. Ends with 1 if one is not found.
. "$(dirname "$0")/common.sh"

work=$TARGET/seeded-bugs
mkdir -p "$work"
# Only crates of the workspace are built with the cfg; what they depend on is shared with every other build.
cat >"$work/rustc" <<'RUSTC'
#!/bin/sh
exec "$@" --cfg flywheel_bug
RUSTC
chmod +x "$work/rustc"
export RUSTC_WORKSPACE_WRAPPER="$work/rustc"

say "building with the faults in it"
cargo build --locked $CARGO_QUIET -p flywheel-cli -p flywheel-powercut
# The next ordinary build puts its own programs where these were.
cp "$TARGET/debug/flywheel" "$TARGET/debug/libflywheel_powercut.so" "$work/"
found=0 missed=''

# outcome NAME LOG HOW: whether the run before found it.
outcome() {
    if [ "$3" = 0 ]; then
        warn "$1: NOT found; $2"
        missed="$missed $1"
    else
        found=$((found + 1))
        seen=$(grep -m1 -E 'broke off|panicked' "$2" || grep -m1 'lost (' "$2" || tail -n 1 "$2")
        say "$1: found: $(printf %s "$seen" | cut -c1-150)"
    fi
}

is_wanted() {
    [ -z "$only" ] && return 0
    case " $only " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}
only=$*

# by_torture NAME WORDS...
by_torture() {
    name=$1
    shift
    is_wanted "$name" || return 0
    how=0
    folder=$work/$name
    rm -rf "$folder"
    FLYWHEEL_BUG=$name "$work/flywheel" --quiet torture --rate 6000 --patience 30 --folder "$folder" "$@" \
        >"$work/$name.log" 2>&1 || how=$?
    rm -rf "$folder"
    outcome "$name" "$work/$name.log" "$how"
}

# by_test NAME CRATE TEST
by_test() {
    is_wanted "$1" || return 0
    how=0
    FLYWHEEL_BUG='' cargo test --locked $CARGO_QUIET -p "$2" "$3" >"$work/$1.log" 2>&1 ||
        die "$3 fails without a fault; see $work/$1.log"
    FLYWHEEL_BUG=$1 cargo test --locked $CARGO_QUIET -p "$2" "$3" >"$work/$1.log" 2>&1 || how=$?
    outcome "$1" "$work/$1.log" "$how"
}

sober() {
    say "without a fault: flywheel torture $*"
    rm -rf "$work/none"
    "$work/flywheel" --quiet torture --rate 6000 --folder "$work/none" "$@" || die "this must pass; see $work/none"
    rm -rf "$work/none"
}
[ -n "$only" ] || {
    sober --kills 10
    sober --kills 0 --cuts 10
}

by_torture ack-before-write --kills 20
by_torture ack-before-append --kills 20
by_torture log-never-synced --kills 5
by_torture gap-counts-as-seen --kills 10
by_torture repeats-are-landed --kills 5
by_torture repeats-forgotten-at-start --kills 20
by_torture position-before-rows --kills 25
by_torture trim-ahead-of-landing --kills 25
by_torture lake-file-not-synced --kills 0 --cuts 15
by_torture lake-folder-not-synced --kills 0 --cuts 15
by_test next-number-after-unknown flywheel-lake a_store_that_forgets_to_answer_costs_retries_and_no_rows
by_test seen-before-append flywheel-ingest a_reply_of_the_log_that_was_lost_doubles_and_never_loses
by_test alias-without-compare flywheel-registry races
by_test stale-fence-is-taken flywheel-catalog a_dead_workers_run_is_leased_again_and_the_zombie_changes_nothing
if have redis-server; then
    by_test always-claims-fsynced flywheel-log-redis what_survives_is_what_the_servers_settings_say
fi

[ -z "$missed" ] || die "not found:$missed"
say "$found seeded faults, all found"
