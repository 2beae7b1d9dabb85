#!/bin/sh
# The long forms of the tests of reliability: kills, power cuts and faults by the hundred, on each log, store and catalog.
# One result line for each, a summary at the end, and what could not be run said aloud. The six runs of
# `flywheel torture`, which come first, took 8 minutes on 2 cores; all of it an hour, with other work beside it;
# log-cuts, whose looks were fewer then, takes 13 minutes more since.
#   scripts/torture.sh [--report FILE] [--only WORD] [--list] [--dry-run] [--no-build] [WORDS of `flywheel torture`]
# --report FILE  write the summary as a table in Markdown, such as docs/torture.md
# --only WORD    only those whose name or test (T1, T2, …) is WORD or begins with it and a dash; may be given again
# --list         their names and what they are; --dry-run: the commands as well, and nothing is run
# --no-build     with the programs and tests that are there
# In the environment: SEED; KILLS (200), CUTS (50), LOG_CUTS (500), LOG_STATES (80 looks after each), COMMITS (500), STORE_KILLS (20), ROUNDS (50) and RATE (5000)
# of T7, KAFKA_SECONDS (120), LOOP_KILLS (200), FLIPS (10,000), TERMS (50). FLYWHEEL_REQUIRE=redis,postgres,s3 makes it an error that one is missing.
. "$(dirname "$0")/common.sh"

report='' only='' run=run build=yes with=$*
while [ $# -gt 0 ]; do
    case $1 in
    --report | --only)
        [ $# -gt 1 ] || die "$1 needs a value" "scripts/torture.sh --list names what there is"
        if [ "$1" = --report ]; then report=$2; else only="$only $2"; fi
        shift
        ;;
    --list) run=list ;;
    --dry-run) run=dry ;;
    --no-build) build='' ;;
    -h | --help)
        sed -n '2,/^\. /{/^# \{0,1\}/!d;s///;p;}' "$0"
        exit 0
        ;;
    *) break ;;
    esac
    shift
done
KILLS=${KILLS:-200} CUTS=${CUTS:-50} LOG_CUTS=${LOG_CUTS:-500} LOG_STATES=${LOG_STATES:-80}
COMMITS=${COMMITS:-500} STORE_KILLS=${STORE_KILLS:-20}
ROUNDS=${ROUNDS:-50} RATE=${RATE:-5000} KAFKA_SECONDS=${KAFKA_SECONDS:-120} LOOP_KILLS=${LOOP_KILLS:-200}
FLIPS=${FLIPS:-10000} TERMS=${TERMS:-50}
seeded=''
if [ -n "${SEED:-}" ]; then
    set -- --seed "$SEED" "$@"
    seeded="FLYWHEEL_SEED=$SEED"
fi

reports=$TARGET/torture
mkdir -p "$reports"
# A line for each: test, name, what it is, outcome, result, seconds; with tabs between.
summary=$reports/summary.tsv
[ "$run" != run ] || : >"$summary"
failed='' skipped='' asked=0

# wanted TEST NAME
wanted() {
    [ -n "$only" ] || return 0
    for word in $only; do
        case " $1 $2" in *" $word" | *" $word "* | *" $word-"*) return 0 ;; esac
    done
    return 1
}

# note OUTCOME RESULT: about the run whose test, name, what and start are set.
note() {
    took=$(($(date +%s) - start))
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$test" "$name" "$what" "$1" "$2" "$took" >>"$summary"
    case $1 in
    passed) say "$test $name: passed in $took s: $2" ;;
    skipped)
        skipped="$skipped $name"
        warn "$test $name: SKIPPED: $2"
        ;;
    *)
        failed="$failed $name"
        printf '%serror:%s %s %s: FAILED after %s s: %s\n' "$RED" "$PLAIN" "$test" "$name" "$took" "$2" >&2
        ;;
    esac
}

# begin TEST NAME WHAT NEEDS COMMAND...: false if there is nothing to run. NEEDS are words with commas between, or `-`.
begin() {
    test=$1 name=$2 what=$3 needs=$4
    shift 4
    wanted "$test" "$name" || return 1
    asked=$((asked + 1))
    if [ "$run" != run ]; then
        printf '%-4s %-16s %s\n' "$test" "$name" "$what"
        [ "$run" = list ] || printf '     %s\n' "$*"
        return 1
    fi
    start=$(date +%s)
    for need in $(printf '%s' "$needs" | tr ',' ' '); do
        [ "$need" = - ] && continue
        why=$(lacking "$need")
        [ -n "$why" ] || continue
        if requires "$need"; then note failed "FLYWHEEL_REQUIRE names $need, and $why"; else note skipped "$why"; fi
        return 1
    done
    say "$test $name: $what"
    log=$reports/$name.log
}

# lacking NEED: why it is not there; nothing if it is.
lacking() {
    case $1 in
    redis) have redis-server || echo "there is no redis-server ($(install_hint redis-server))" ;;
    postgres)
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
            echo "there is no initdb ($(install_hint postgresql))"
        ;;
    s3) have "$PYTHON" || echo "there is no $PYTHON, which gets SeaweedFS and moto ($(install_hint python3 python3-venv))" ;;
    esac
}

# torture TEST NAME WHAT NEEDS ENDS WORDS...: one run of the shipped command. ENDS is the exit code that it must have.
torture() {
    ends=$5
    begin "$1" "$2" "$3" "$4" "flywheel torture $(shift 5 && printf '%s ' "$@")" || return 0
    shift 5
    rm -f "$reports/$name.json"
    status=0
    "$TARGET/release/flywheel" torture --report "$reports/$name.json" "$@" >"$log" 2>&1 || status=$?
    result=$("$PYTHON" - "$reports/$name.json" 2>/dev/null <<'PY'
import json, sys

r = json.load(open(sys.argv[1]))
lost, undone = r["lost"], r["undone"]
text = f"{r['acknowledged']:,} acknowledged ({r['durability']}), {r['in_table']:,} in the table, "
text += f"{lost['durable'] + lost['memory']:,} lost, {r['doubled']:,} doubled, {r['out_of_order']:,} out of order; "
text += f"{r['kills']} kills, {r['cuts']} cuts"
if r["cuts"]:
    text += f" that took back {undone['bytes']:,} bytes of {undone['files']:,} files and {undone['names']:,} names"
text += f"; up again in {r['restart_p50_ms']} ms, at most {r['restart_max_ms']} ms; seed {r['seed']}"
if r["opinion"]:
    text += "; deltalake and DuckDB count the same"
if r["broken"]:
    text += f"; it broke off: {r['broken']}"
print(text.replace("\n", " "))
# The counter-test: what was promised no more than memory is lost, and nothing else.
print(f"COUNTER {lost['memory'] > 0 and lost['durable'] == 0}")
PY
    ) || result="no report; see ${log#"$ROOT"/}"
    bites=$(printf '%s' "$result" | sed -n 's/^COUNTER //p')
    result=$(printf '%s' "$result" | grep -v '^COUNTER ' || true)
    if [ "$status" != "$ends" ]; then
        note failed "exit code $status instead of $ends; $result"
    elif [ "$ends" = 7 ] && [ "$bites" != True ]; then
        note failed "what was lost is not what must be lost under it; $result"
    else
        note passed "$result"
    fi
}

# tests TEST NAME WHAT NEEDS VARIABLES TARGET FILTER LINES: one test of the workspace, its numbers in the environment.
# TARGET is `--lib` or `--test X`; LINES is a pattern of the lines that say what came of it.
tests() {
    begin "$1" "$2" "$3" "$4" "env $5 $seeded cargo test --workspace $6 -- $7 --nocapture" || return 0
    require=programs,torch,python
    [ "$needs" = - ] || require=$require,$needs
    status=0
    # shellcheck disable=SC2086  # VARIABLES and TARGET are several words
    env FLYWHEEL_REQUIRE="$require" FLYWHEEL_BIN="$TARGET/release/flywheel" $5 $seeded \
        cargo test --locked $CARGO_QUIET --workspace --features "$(test_features)" $6 -- "$7" --nocapture >"$log" 2>&1 || status=$?
    ran=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    result=$(sed 's/^test .* \.\.\. //' "$log" | grep -E "$8" | tr '\n\t' '; ' | sed 's/;*$//; s/;/; /g; s/  */ /g')
    if [ "$status" != 0 ]; then
        note failed "$(grep -m1 -E 'panicked|^error' "$log" || echo "exit code $status"); see ${log#"$ROOT"/}"
    elif [ "$ran" = 0 ]; then
        note failed "there is no test $7"
    elif [ -z "$result" ]; then
        # What skipped itself passes and says so.
        note failed "it said nothing of what it did: $(grep -m1 SKIPPED "$log" || echo "see ${log#"$ROOT"/}")"
    else
        note passed "$result"
    fi
}

every() {
    torture T1 embedded-kills "$KILLS kills of the doors at 20,000 events a second, embedded log" - 0 --kills "$KILLS" "$@"
    torture T1 embedded-faults "the same, and log and store fail and forget to answer" - 0 --kills "$KILLS" --faults "$@"
    torture T1 redis-kills "$KILLS kills of the doors, Redis that always syncs" redis 0 --log redis --kills "$KILLS" "$@"
    torture T2 embedded-cuts "$CUTS cuts of power, embedded log" - 0 --kills 0 --cuts "$CUTS" "$@"
    torture T2 redis-cuts "$CUTS cuts of power, Redis that always syncs" redis 0 --log redis --kills 0 --cuts "$CUTS" "$@"
    # Here events must be lost, and only such as were promised no more than memory.
    torture T2 redis-everysec "15 cuts of power, Redis that syncs every second: the counter-test, which must lose" redis 7 \
        --log redis:everysec --kills 0 --cuts 15 "$@"
    tests T3 log-cuts "$LOG_CUTS cuts of power at any write of the embedded log's file, $LOG_STATES looks at what each may leave" - \
        "FLYWHEEL_POWER_CUTS=$LOG_CUTS FLYWHEEL_STATES=$LOG_STATES" --lib \
        a_power_cut_at_any_change_of_the_file_loses_doubles_and_tears_nothing 'cuts, .*nothing lost'
    tests T2 sqlite-cuts "$CUTS cuts of power under the catalog on SQLite" - "FLYWHEEL_POWER_CUTS=$CUTS" '--test catalog' \
        power_cuts_under_sqlite_lose_no_acknowledged_change_of_a_run 'cuts of power took back'
    tests T2 postgres-cuts "$CUTS cuts of power under the catalog on PostgreSQL" postgres "FLYWHEEL_POWER_CUTS=$CUTS" '--test catalog' \
        power_cuts_under_postgresql_lose_no_acknowledged_change_of_a_run 'cuts of power took back'
    tests T2 postgres-nosync "PostgreSQL that syncs nothing: the counter-test, which must lose" postgres '' '--test catalog' \
        a_postgresql_that_syncs_nothing_is_seen_to_lose_acknowledged_changes 'cuts of power took back|does not even start'
    tests T4 table-flips "$FLIPS flipped bits in the files of tables" - "FLYWHEEL_FLIPS=$FLIPS" '--test flips' \
        every_flipped_bit_of_a_data_file_is_found_and_its_file_and_place_are_named 'flips: '
    tests T4 log-flips "$FLIPS flipped bytes in the file of the embedded log" - "FLYWHEEL_FLIPS=$FLIPS" --lib \
        no_flipped_byte_anywhere_makes_a_wrong_record_or_a_panic 'flips: '
    tests T5 archive-crashes "a crash at every operation of the store while days are archived and restored" - \
        FLYWHEEL_EVERY_OPERATION=1 '--test archive' a_crash_at_any_operation_of_the_tables_store_loses_and_doubles_nothing \
        '^test result: ok\. [1-9]'
    tests T6 store-faults "$COMMITS commits of two writers on SeaweedFS and on moto that fail, forget, stall and repeat" s3 \
        "FLYWHEEL_COMMITS=$COMMITS" '--test s3' a_store_that_fails_forgets_stalls_and_repeats_itself '0 lost, 0 doubled'
    tests T6 store-kills "$STORE_KILLS kills of SeaweedFS beneath writers and a mover of an alias" s3 "FLYWHEEL_KILLS=$STORE_KILLS" \
        '--test s3' kills_of_the_server_lose_no_commit_and_double_none 'none lost, none doubled'
    tests T7 landers "$ROUNDS kills and stops past the lease of 4 landers on Redis at $RATE events a second" redis \
        "FLYWHEEL_KILLS=$ROUNDS FLYWHEEL_RATE=$RATE" '--test it' landers_that_are_killed_and_stopped_past_their_lease '0 lost, 0 doubled'
    tests T8 kafka-faults "$KAFKA_SECONDS s of brokers that go down, partitions that move and requests that fail (librdkafka's mock)" - \
        "FLYWHEEL_KAFKA_SECONDS=$KAFKA_SECONDS" '--test kafka_faults' what_a_failing_cluster_acknowledged_is_in_the_table_once \
        'events acknowledged'
    tests T17 loop-kills "$LOOP_KILLS kills of the whole loop and its trainer" - "FLYWHEEL_KILLS=$LOOP_KILLS" '--test it' \
        a_loop_that_is_killed_again_and_again 'kills of the loop'
    tests T17 trainer-kills "30 kills of the trainer, and 20 times stopped and resumed: the weights of one left in peace" - \
        'FLYWHEEL_KILLS=30 FLYWHEEL_RESUMES=20' '--test trainer' again_and_again_ends_with_the_very_weights 'kills|resumed'
    tests T18 ends "$TERMS times SIGTERM to the loop under load" - "FLYWHEEL_TERMS=$TERMS" '--test it' \
        a_loop_that_is_told_to_end_under_load_ends_well_and_keeps_what_it_acknowledged '0 lost, 0 doubled'
}

# First what is asked for, without running anything: a name that is none costs no build.
asked_to=$run
[ "$run" != run ] || run=list
if [ "$asked_to" = run ]; then every "$@" >/dev/null; else every "$@"; fi
[ "$asked" -gt 0 ] || die "nothing is named$only" "scripts/torture.sh --list names what there is"
[ "$asked_to" = run ] || exit 0
run=run asked=0 skipped='' failed=''

LIBTORCH=${LIBTORCH:-$("$ROOT/scripts/libtorch.sh")}
FLYWHEEL_PYTHON=${FLYWHEEL_PYTHON:-$("$ROOT/scripts/venv.sh" test)}
export LIBTORCH FLYWHEEL_PYTHON
if [ -n "$build" ]; then
    "$ROOT/scripts/build.sh"
    cargo build --locked $CARGO_QUIET --release -p flywheel-powercut
    say "building the tests (as \`make test\` does)"
    cargo build --locked $CARGO_QUIET --workspace --features "$(test_features)" --bins --tests --examples
    cargo build --locked $CARGO_QUIET -p flywheel-powercut
fi
every "$@"

count() { awk -F '\t' -v outcome="$1" '$4 == outcome { n++ } END { print n + 0 }' "$summary"; }
total="$(count passed) of $asked passed, $(count failed) failed, $(count skipped) skipped"
printf '\n'
awk -F '\t' '{ printf "%-4s %-16s %-8s %5s s  %s\n", $1, $2, $4, $6, $5 }' "$summary"
if [ -n "$report" ]; then
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
    {
        printf '# Torture\n\n'
        # shellcheck disable=SC2016  # backticks of Markdown
        printf 'Written by `scripts/torture.sh %s` on %s, commit %s, %s cores (%s); other work may have\n' "$with" \
            "$(date -u +%F)" "$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)" "$(getconf _NPROCESSORS_ONLN)" \
            "${cpu:-unknown}"
        printf 'shared them. What each test is, and what it does not cover: [delivery.md](delivery.md).\n\n'
        printf '%s.\n\n| test | run | what | outcome | result | seconds |\n| --- | --- | --- | --- | --- | --- |\n' "$total"
        awk -F '\t' '{ gsub(/\|/, "\\|"); printf "| %s | `%s` | %s | %s | %s | %s |\n", $1, $2, $3, $4 == "passed" ? $4 : "**" $4 "**", $5, $6 }' "$summary"
    } >"$report"
    say "the report is in $report"
fi
[ -z "$skipped" ] || warn "SKIPPED:$skipped"
say "$total; logs and reports are in $reports"
[ -z "$failed" ] || die "failed:$failed"
