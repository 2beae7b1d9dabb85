#!/bin/sh
# Gets what is missing and runs every test, each step with its time:
# the web unit tests and type check, all Rust tests (trainer included), the Python client against a real door, the page in
# headless Chromium against the real program. What a machine cannot have is said aloud at the end; libtorch and the Python readers are never skipped.
. "$(dirname "$0")/common.sh"

skipped=''

# A test that needs one of these fails when it is absent, instead of skipping. More may be asked for:
# FLYWHEEL_REQUIRE=redis,kafka,s3,postgres make test
known='python torch programs page chromium redis kafka s3 postgres mount promtool'
for word in $(printf '%s' "${FLYWHEEL_REQUIRE:-}" | tr ',' ' '); do
    case " $known " in
    *" $word "*) ;;
    *) die "FLYWHEEL_REQUIRE names \`$word\`, which no test knows" "known: $known" ;;
    esac
done
FLYWHEEL_REQUIRE="python,torch,programs${FLYWHEEL_REQUIRE:+,$FLYWHEEL_REQUIRE}"
export FLYWHEEL_REQUIRE
# What that needs is looked for before anything is built.
needed='rust python node disk'
for word in redis kafka s3 postgres promtool; do
    if requires "$word"; then needed="$needed $word"; fi
done
if requires kafka; then needed="$needed broker"; fi
# shellcheck disable=SC2086  # several words
"$ROOT/scripts/prerequisites.sh" $needed

LIBTORCH=$("$ROOT/scripts/libtorch.sh") || die "the trainer's tests need libtorch, and it could not be had"
export LIBTORCH
FLYWHEEL_PYTHON=$("$ROOT/scripts/venv.sh" test) || die "the tests that read our tables need the Python readers"
export FLYWHEEL_PYTHON
# skip WHAT WITH: a passing test's own words are not shown, so what it left out is said at the end.
skip() { skipped="$skipped $1 ($2);"; }

find_chromium() {
    for name in "${FLYWHEEL_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        [ -n "$name" ] && command -v "$name" && return 0
    done
    return 1
}
if ! chromium=$(find_chromium) && [ "$(id -u)" = 0 ] && have apt-get; then
    say "getting Chromium for the page's test (usually a minute)"
    log=$TARGET/logs/chromium.log
    mkdir -p "$TARGET/logs"
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } \
        >"$log" 2>&1 </dev/null; then
        warn "Chromium could not be installed; see $log"
    fi
    chromium=$(find_chromium) || chromium=''
fi

step() {
    step_name=$1
    shift
    say "$step_name"
    step_start=$(date +%s)
    "$@" || die "$step_name: failed"
    say "$step_name: done in $(($(date +%s) - step_start)) s"
}

npm_run() { (cd "$WEB_DIR" && npm run --silent "$@"); }
has_script() { [ -f "$WEB_DIR/package.json" ] && grep -q "\"$1\":" "$WEB_DIR/package.json"; }

if [ -f "$WEB_DIR/package.json" ]; then
    step "the page's packages and build" "$ROOT/scripts/web.sh" build
    if has_script check; then step "the page's type check (10 s)" npm_run check; fi
    if has_script test; then step "the page's unit tests (10 s)" npm_run test; fi
fi

# One selection of packages and features for programs and tests: nothing is built twice, and the tests find the
# programs (flywheel, flywheel-trainer) beside them.
set -- --locked --workspace --features "$(test_features)"
step "building programs and tests (the first time: 8 to 12 minutes on 2 cores)" cargo build $CARGO_QUIET "$@" --bins --tests --examples
# Loaded into programs whose power is cut; no other crate may link it, so nothing else builds it.
step "the library for power cuts" cargo build --locked $CARGO_QUIET -p flywheel-powercut
# A test that hangs must end too; the tests take some 10 minutes on 2 cores.
if have timeout; then limit='timeout 3600'; else limit=''; fi
step "the Rust tests" $limit cargo test --no-fail-fast "$@"
have redis-server || skip "the log on Redis" "$(install_hint redis-server)"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || skip "the catalog on PostgreSQL" "$(install_hint postgresql)"
requires kafka || skip "the log on a Kafka broker" "FLYWHEEL_REQUIRE=kafka make test, with a Java 17 runtime and Maven"
requires s3 || skip "tables and models on S3" "FLYWHEEL_REQUIRE=s3 make test"
have "${FLYWHEEL_PROMTOOL:-promtool}" || skip "promtool's judgement of the alert rules and panels" "$(install_hint prometheus)"
[ "$(id -u)" = 0 ] || skip "a disk that is nearly full" "only root may mount one"

python_client() {
    (cd "$ROOT/clients/python" && FLYWHEEL_DOOR=$TARGET/debug/examples/door "$FLYWHEEL_PYTHON" -B -m unittest discover -s tests)
}
step "the Python client (5 s)" python_client

if has_script test:page; then
    if [ -n "$chromium" ]; then
        CHROMIUM=$chromium
        export CHROMIUM
        step "the page in headless Chromium (one to three minutes)" node scripts/page-test.mjs "$TARGET/debug"
    else
        skip "the page in headless Chromium" "$(install_hint chromium)"
    fi
fi

if [ -n "$skipped" ]; then
    warn "SKIPPED:$skipped and every test that ran has passed"
else
    say "every test has passed"
fi
