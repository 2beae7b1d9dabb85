#!/bin/sh
# Starts a Kafka broker on this machine and measures, in one run: its own performance tool, and `flywheel bench ingest
# --through` on it. Needs Java 17, Maven, and a build with `make build FEATURES=kafka`. EVENTS (10000000) says how many.
. "$(dirname "$0")/common.sh"

EVENTS=${EVENTS:-10000000} PORT=${PORT:-39092}
[ -x "$TARGET/release/flywheel" ] || die "target/release/flywheel is not there; \`make build FEATURES=kafka\` builds it"
kafka=$ROOT/scripts/kafka.sh
folder=$(mktemp -d)
trap '[ ! -f "$folder/pid" ] || "$kafka" stop --folder "$folder"; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
# As Kafka comes: it leaves it to the system when a record is written to the disk.
"$kafka" --background --lazy --port "$PORT" --folder "$folder"
pid=$(cat "$folder/pid")
# Seconds of CPU that the broker has used.
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / hz }' "/proc/$pid/stat"; }
per_event() { awk -v a="$1" -v b="$2" -v n="$3" 'BEGIN { printf "%.2f us/event", (b - a) * 1e6 / n }'; }

say "Kafka's own tool: $EVENTS records of 200 bytes, acks=all, lz4"
before=$(cpu)
"$kafka" tool org.apache.kafka.tools.ProducerPerformance --topic perf --num-records "$EVENTS" --record-size 200 --throughput -1 \
    --producer-props "bootstrap.servers=127.0.0.1:$PORT" acks=all compression.type=lz4 linger.ms=5 batch.size=262144 2>&1 | tail -1
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"
before=$(cpu)
"$kafka" tool org.apache.kafka.tools.ConsumerPerformance --topic perf --messages "$EVENTS" --bootstrap-server "127.0.0.1:$PORT" \
    --group perf 2>&1 | tail -2
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"

say "flywheel bench ingest --through kafka://127.0.0.1:$PORT --events $EVENTS"
before=$(cpu)
"$TARGET/release/flywheel" bench ingest --through "kafka://127.0.0.1:$PORT?timeout=60s" --events "$EVENTS" "$@"
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"
