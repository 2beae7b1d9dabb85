#!/bin/sh
# Are the tests any good? Builds the workspace once with all seeded faults asleep in it (cfg flywheel_bug), wakes one
# after the other by FLYWHEEL_BUG, and shows that a short torture or a test finds it. Without a fault all must pass.
# Names as arguments: only these. Ends with 1 if one is not found.
. "$(dirname "$0")/common.sh"

work=$TARGET/seeded-bugs
mkdir -p "$work"
# Only crates of the workspace are built with the cfg; what they depend on is shared with every other build.
export RUSTC_WORKSPACE_WRAPPER="$ROOT/scripts/rustc-with-faults.sh"

found=0 missed='' asked=0

# outcome NAME LOG SEEN: whether the run before found it; SEEN is the symptom as it was told, or nothing.
outcome() {
    if [ -z "$3" ]; then
        warn "$1: NOT found; $2"
        missed="$missed $1"
    else
        found=$((found + 1))
        say "$1: found: $(printf %s "$3" | cut -c1-150)"
    fi
}

is_wanted() {
    [ -z "$only" ] && return 0
    case " $only " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}
only=$*

# The programs that are tortured; once, and only if one is.
programs() {
    [ -x "$work/flywheel" ] && [ -n "${programs_built:-}" ] && return 0
    say "building the programs with the faults in them"
    cargo build --locked $CARGO_QUIET -p flywheel-cli -p flywheel-powercut
    # The next ordinary build puts its own programs where these were.
    cp "$TARGET/debug/flywheel" "$TARGET/debug/libflywheel_powercut.so" "$work/"
    programs_built=yes
}

# by_torture NAME SYMPTOM WORDS...: the torture must end with exit code 7, "not well", and its report tell of SYMPTOM. One that
# breaks off (exit code 1) has found only what SYMPTOM says of breaking off, such as a table that nobody can read any more; one
# that ends otherwise (nothing could be started, a port was taken) has found nothing.
by_torture() {
    name=$1 symptom=$2
    shift 2
    is_wanted "$name" || return 0
    programs
    asked=$((asked + 1)) attempt=0 seen=''
    folder=$work/$name
    # Whether a moment strikes is chance; other seeds have other moments.
    while [ -z "$seen" ] && [ $attempt -lt 4 ]; do
        attempt=$((attempt + 1)) how=0
        rm -rf "$folder"
        FLYWHEEL_BUG=$name "$work/flywheel" --quiet torture --rate 6000 --patience 30 --folder "$folder" "$@" \
            >"$work/$name.log" 2>&1 || how=$?
        rm -rf "$folder"
        seen=$(grep -m1 -o -E "$symptom.*" "$work/$name.log" || true)
        case $how,$seen in
            0,*) seen='' ;;
            7,* | 1,'broke off:'*) ;;
            *) die "$name: the torture ended with $how, which is no finding; see $work/$name.log" ;;
        esac
    done
    outcome "$name" "$work/$name.log" "$seen"
}

# Always the same crates at once: with others, features and so most of what they depend on would be built anew.
TESTED='-p flywheel-lake -p flywheel-registry -p flywheel-catalog -p flywheel-ingest -p flywheel-log-redis
    -p flywheel-kit -p flywheel-agent'

# by_test NAME TEST SYMPTOM: the test must be there, pass without the fault, and fail with it, by a panic that tells of SYMPTOM.
by_test() {
    is_wanted "$1" || return 0
    asked=$((asked + 1)) how=0
    # shellcheck disable=SC2086  # several words
    FLYWHEEL_BUG='' FLYWHEEL_REQUIRE=redis cargo test --locked $CARGO_QUIET $TESTED "$2" >"$work/$1.log" 2>&1 ||
        die "$2 fails without a fault; see $work/$1.log"
    grep -Eq '^test result: ok\. [1-9]' "$work/$1.log" || die "there is no test $2; see $work/$1.log"
    # shellcheck disable=SC2086
    FLYWHEEL_BUG=$1 FLYWHEEL_REQUIRE=redis cargo test --locked $CARGO_QUIET $TESTED "$2" >"$work/$1.log" 2>&1 || how=$?
    [ "$how" = 0 ] || grep -q "$2 .* FAILED" "$work/$1.log" ||
        die "$1 breaks something else than $2; see $work/$1.log"
    seen=''
    [ "$how" = 0 ] || seen=$(grep -A3 'panicked at' "$work/$1.log" | tr '\n' ' ' | grep -o -E "$3" || true)
    outcome "$1" "$work/$1.log" "$seen"
}

sober() {
    programs
    say "without a fault: flywheel torture $*"
    rm -rf "$work/none"
    "$work/flywheel" --quiet torture --rate 6000 --folder "$work/none" "$@" || die "this must pass; see $work/none"
    rm -rf "$work/none"
}
[ -n "$only" ] || {
    sober --kills 10
    sober --kills 0 --cuts 10
}

lost=' [1-9][0-9]* lost \('
doubled=' [1-9][0-9]* doubled'
unreadable='broke off: .*(reading file|opening|_delta_log|arquet)'
by_torture ack-before-write "$lost" --kills 20
by_torture ack-before-append "$lost" --kills 20
by_torture log-never-synced "$lost" --kills 5
by_torture gap-counts-as-seen "$lost" --kills 10
by_torture repeats-are-landed "$doubled" --kills 5
by_torture repeats-forgotten-at-start "$doubled" --kills 20
by_torture position-before-rows "$lost" --kills 25
by_torture trim-ahead-of-landing "$lost" --kills 25
by_torture lake-file-not-synced "$unreadable|$lost" --kills 0 --cuts 15
by_torture lake-folder-not-synced "$lost|$unreadable" --kills 0 --cuts 15
unequal='assertion `left == right` failed'
by_test next-number-after-unknown a_commit_that_arrives_late_is_found_at_its_own_number_and_not_written_again \
    "tests/late\.rs.*$unequal"
by_test seen-before-append a_reply_of_the_log_that_was_lost_doubles_and_never_loses "doors/bounds\.rs.*$unequal"
by_test alias-without-compare of_racing_promoters_exactly_one_wins "it/races\.rs.*$unequal"
by_test stale-fence-is-taken a_dead_workers_run_is_leased_again_and_the_zombie_changes_nothing \
    'suite/main\.rs.*called `Result::unwrap_err\(\)` on an `Ok` value'
by_test spool-acks-before-sync a_power_cut_at_any_moment_costs_nothing_that_was_acknowledged_and_no_order \
    'spool/tests\.rs.*acknowledged up to [0-9]+'
by_test unbounded-queue a_full_queue_spills_to_disk_and_drains_in_order 'tests/emitter\.rs.*spilled: 0,'
by_test swap-without-drain a_version_promoted_mid_game_decides_from_the_next_episode_and_is_named_in_the_events \
    'tests/whole_game\.rs.*all by tank-ai-dqn@1'
# It needs a redis-server, and fails without one.
by_test always-claims-fsynced what_survives_is_what_the_servers_settings_say "tests/server\.rs.*$unequal"

[ -z "$missed" ] || die "not found:$missed"
[ "$asked" -gt 0 ] || die "there is no such fault: $only"
say "$found of $asked seeded faults found"
