#!/bin/sh
# A Kafka broker on this machine: one node that is its own controller, on loopback. Its jars come from Maven by name, once.
#   scripts/kafka.sh                     start it and stay; Ctrl-C stops it
#   scripts/kafka.sh --background        start it, and come back once it answers
#   scripts/kafka.sh stop                stop the one that runs on the folder
#   scripts/kafka.sh tool CLASS WORDS    one of Kafka's own tools, such as org.apache.kafka.tools.ConsoleProducer
# --port P (9092; its controller takes P + 1), --folder DIR (./kafka: settings, data, pid, log), --lazy (an acknowledged
# record is in memory alone, as is Kafka's default; else it is on the disk, because there is no second broker that has it).
. "$(dirname "$0")/common.sh"

VERSION=4.1.1
usage='usage: scripts/kafka.sh [--background] [--port P] [--folder DIR] [--lazy] | stop [--folder DIR] | tool CLASS [WORD]...'
verb=start port=9092 folder=$ROOT/kafka background='' flush=log.flush.interval.messages=1
while [ $# -gt 0 ]; do
    case $1 in
    start | stop) verb=$1 ;;
    tool)
        verb=tool
        shift
        break
        ;;
    --background) background=yes ;;
    --lazy) flush='' ;;
    --port | --folder)
        [ $# -gt 1 ] || die "$1 needs a value" "$usage"
        if [ "$1" = --port ]; then port=$2; else folder=$2; fi
        shift
        ;;
    -h | --help)
        sed -n '2,/^\. /{/^# \{0,1\}/!d;s///;p;}' "$0"
        exit 0
        ;;
    *) die "what is \`$1\`?" "$usage" ;;
    esac
    shift
done
case $port in '' | *[!0-9]*) die "\`$port\` is no port" "$usage" ;; esac
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac

broker=$ROOT/storage/log-kafka/tests/broker
# Where the tests of the log on Kafka keep theirs too.
cache=$TARGET/tmp/kafka-$VERSION
libs=$cache/libs

# What stands in the pid file, if that process is a broker on this folder.
running() {
    [ -f "$folder/pid" ] || return 1
    pid=$(cat "$folder/pid")
    [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$folder/server.properties"
}

if [ "$verb" = stop ]; then
    running || die "no broker of this script runs on $folder"
    kill "$pid"
    waited=0
    while running; do
        [ "$waited" -lt 60 ] || die "the broker (process $pid) does not end; $folder/log says what it does"
        sleep 1
        waited=$((waited + 1))
    done
    rm -f "$folder/pid"
    say "the broker on $folder has ended"
    exit 0
fi

have java || die "missing: java, a Java runtime of version 17 or newer" "install it with: $(install_hint default-jre-headless)"
major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -1)
[ "${major:-0}" -ge 17 ] || die "Kafka needs Java 17 or newer; this one is ${major:-of an unknown version}"
if [ ! -f "$cache/complete" ]; then
    have mvn || die "missing: mvn, which fetches Kafka's jars" "install it with: $(install_hint maven)"
    say "fetching Kafka $VERSION from Maven (54 MB, once)"
    mkdir -p "$libs"
    run_quietly "fetching Kafka's jars" "$TARGET/logs/kafka.log" \
        mvn -B -f "$broker/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$libs"
    touch "$cache/complete"
fi
classes="$libs/*:$broker"
[ "$verb" = start ] || exec java -Xmx1g -XX:+UseSerialGC -cp "$classes" "$@"

running && die "a broker runs on $folder already (process $pid)" "\`scripts/kafka.sh stop --folder $folder\` stops it"
answers() { "$PYTHON" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; }
have "$PYTHON" || die "missing: Python 3 ($PYTHON)" "install it with: $(install_hint python3)"
answers && die "something listens at 127.0.0.1:$port already" "take another port: --port $((port + 10))"
mkdir -p "$folder"
cat >"$folder/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/data
num.partitions=4
# One broker, so one copy of everything, its own topics too.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
$flush
END
if [ ! -f "$folder/data/meta.properties" ]; then
    run_quietly "formatting $folder/data" "$folder/format.log" java -XX:+UseSerialGC -cp "$classes" \
        kafka.tools.StorageTool format -t Zmx5d2hlZWwtdGVzdHMAAA -c "$folder/server.properties"
fi
set -- java -Xms512m -Xmx1g -XX:+UseSerialGC -cp "$classes" kafka.Kafka "$folder/server.properties"
if [ -z "$background" ]; then
    say "a broker at 127.0.0.1:$port; Ctrl-C stops it"
    # The process keeps its number when it becomes the broker.
    printf '%s\n' $$ >"$folder/pid"
    exec "$@"
fi
nohup "$@" >"$folder/log" 2>&1 </dev/null &
pid=$!
printf '%s\n' "$pid" >"$folder/pid"
waited=0
until answers; do
    kill -0 "$pid" 2>/dev/null || die "the broker ended: $(tail -n 3 "$folder/log")"
    if [ "$waited" -ge 120 ]; then
        kill "$pid"
        die "the broker did not answer within two minutes; see $folder/log"
    fi
    sleep 1
    waited=$((waited + 1))
done
say "a broker answers at 127.0.0.1:$port (process $pid, log $folder/log); \`scripts/kafka.sh stop\` stops it"
