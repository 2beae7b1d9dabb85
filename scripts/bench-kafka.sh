#!/bin/sh
# Starts a Kafka broker on this machine and measures, in one run: its own performance tool, and `flywheel bench ingest
# --through` on it. Needs Java 17, Maven, and a build with `make build FEATURES=kafka`. EVENTS (10000000) says how many.
. "$(dirname "$0")/common.sh"

EVENTS=${EVENTS:-10000000} PORT=${PORT:-39092}
have java && have mvn || die "a Kafka broker needs a Java 17 runtime and Maven ($(install_hint default-jre-headless maven))"
[ -x "$TARGET/release/flywheel" ] || die "target/release/flywheel is not there; \`make build FEATURES=kafka\` builds it"
broker=$ROOT/storage/log-kafka/tests/broker
libs=$TARGET/tmp/kafka-4.1.1/libs
[ -d "$libs" ] || {
    say "fetching Kafka's jars (54 MB, once)"
    mvn -q -B -f "$broker/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$libs"
}
folder=$(mktemp -d)
pid=
trap 'if [ -n "$pid" ]; then kill "$pid"; wait "$pid" || true; fi 2>/dev/null; rm -rf "$folder"' EXIT
java_() { java -Xms512m -Xmx1g -XX:+UseSerialGC -cp "$libs/*:$broker" "$@"; }
cat >"$folder/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((PORT + 1))
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/data
num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
END
java_ kafka.tools.StorageTool format -t Zmx5d2hlZWwtdGVzdHMAAA -c "$folder/server.properties" >/dev/null 2>&1
say "starting a broker at 127.0.0.1:$PORT"
java -Xms512m -Xmx1g -XX:+UseSerialGC -cp "$libs/*:$broker" kafka.Kafka "$folder/server.properties" >"$folder/log" 2>&1 &
pid=$!
until "$PYTHON" -c "import socket; socket.create_connection(('127.0.0.1', $PORT), 1)" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || die "the broker ended: $(tail -3 "$folder/log")"
    sleep 1
done
# Seconds of CPU that the broker has used.
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / hz }' "/proc/$pid/stat"; }
per_event() { awk -v a="$1" -v b="$2" -v n="$3" 'BEGIN { printf "%.2f us/event", (b - a) * 1e6 / n }'; }

say "Kafka's own tool: $EVENTS records of 200 bytes, acks=all, lz4"
before=$(cpu)
java_ org.apache.kafka.tools.ProducerPerformance --topic perf --num-records "$EVENTS" --record-size 200 --throughput -1 \
    --producer-props "bootstrap.servers=127.0.0.1:$PORT" acks=all compression.type=lz4 linger.ms=5 batch.size=262144 2>&1 | tail -1
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"
before=$(cpu)
java_ org.apache.kafka.tools.ConsumerPerformance --topic perf --messages "$EVENTS" --bootstrap-server "127.0.0.1:$PORT" \
    --group perf 2>&1 | tail -2
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"

say "flywheel bench ingest --through kafka://127.0.0.1:$PORT --events $EVENTS"
before=$(cpu)
"$TARGET/release/flywheel" bench ingest --through "kafka://127.0.0.1:$PORT?timeout=60s" --events "$EVENTS" "$@"
say "the broker used $(per_event "$before" "$(cpu)" "$EVENTS")"
