//! Landing from a Kafka whose brokers go down, whose partitions move and whose requests fail (librdkafka's mock cluster, so
//! no server is needed; a real broker's suite and kills are in `storage/log-kafka/tests`).
//!
//! Producers send what was not acknowledged again, as every producer of ours does; landers come and go. At the end each
//! acknowledged event is in the table once. `FLYWHEEL_KAFKA_SECONDS` (10) says for how long, `FLYWHEEL_SEED` repeats the
//! choices.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::*;
use flywheel_events::{Event, GameId, System};
use flywheel_flows::{Land, LandConfig, Sharing, sharing};
use flywheel_lake::{Lake, TableName};
use flywheel_log::{EventLog, LogErrorKind, Record, partition_of};
use flywheel_log_kafka::KafkaLog;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::{
    mocking::{MockCluster, MockCoordinator},
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey as Request, RDKafkaRespErr as Code},
};
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 4;
const BROKERS: i32 = 3;
const PRODUCERS: usize = 4;
const PREFIX: &str = "mock-";
/// Long enough for a busy machine; what was lost would be waited for without end.
const PATIENCE: Duration = Duration::from_secs(600);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Sends the events of its games one batch after the other, each until it is acknowledged. Says how far each game is.
async fn produce(
    log: Arc<KafkaLog>,
    producer: usize,
    stop: Arc<AtomicBool>,
    again: Arc<AtomicU64>,
) -> Vec<(String, u64)> {
    let mut games: Vec<_> = (0..3).map(|game| (format!("p{producer}-game-{game}"), 0_u64)).collect();
    let mut round = 0;
    // What was begun is seen through, so that all that was sent is acknowledged.
    while !stop.load(Relaxed) {
        round += 1;
        let (id, next) = &mut games[round % 3];
        let lane = topic().partition(partition_of(id.as_bytes(), PARTITIONS));
        let record = |seq| {
            let event = Event::new(System::Tank, toy::STEP, GameId::new(id.as_str()).unwrap(), seq, T0);
            Record::new(id.clone(), event.payload(&serde_json::json!({"tick": seq, "seat": "a", "r": 0.5})).encode())
        };
        loop {
            match log.append(&lane, (*next..*next + 5).map(record).collect()).await {
                Ok(_) => break,
                Err(error) => {
                    assert!(error.kind().is_retryable(), "{error}");
                    again.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        *next += 5;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    games
}

/// A lander with a connection of its own, which leaves when told to.
struct Lander {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    stats: Arc<flywheel_flows::LandStats>,
}

impl Lander {
    async fn join(url: &str, lake: &Lake, n: u32) -> Self {
        let log = loop {
            match KafkaLog::connect(url).await {
                Ok(log) => break log,
                Err(error) => assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error}"),
            }
        };
        let config = LandConfig {
            linger: Duration::from_millis(20),
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(200),
            ..LandConfig::new(topic(), PARTITIONS)
        };
        let lease = Duration::from_secs(4);
        let land = Land::new(log as Arc<dyn EventLog>, lake.clone(), config).shared(Sharing {
            member: format!("lander-{n}"),
            pins: None,
            lease,
        });
        let (stats, stop) = (land.stats(), CancellationToken::new());
        let told = stop.clone();
        let task = tokio::spawn(async move { land.run(told).await.expect("landing goes on whatever the brokers do") });
        Self { stop, task, stats }
    }
}

/// Two landers share the partitions; every two seconds another one comes and the oldest is told to go. Says all there were,
/// the last two still landing.
async fn come_and_go(url: String, lake: Lake, stop: Arc<AtomicBool>) -> Vec<Lander> {
    let mut landers = vec![Lander::join(&url, &lake, 0).await, Lander::join(&url, &lake, 1).await];
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_secs(2)).await;
        landers[landers.len() - 2].stop.cancel();
        landers.push(Lander::join(&url, &lake, landers.len() as u32).await);
    }
    landers
}

/// One of the things that go wrong in a cluster, at random.
fn go_wrong(
    cluster: &MockCluster<'_, DefaultProducerContext>,
    random: &mut ChaCha8Rng,
    down: &mut Option<i32>,
) -> &'static str {
    let events = format!("{PREFIX}{}", topic());
    if let Some(broker) = down.take() {
        cluster.broker_up(broker).unwrap();
        return "a broker is back";
    }
    match random.random_range(0..6) {
        0 | 1 => {
            let broker = random.random_range(1..=BROKERS);
            cluster.broker_down(broker).unwrap();
            *down = Some(broker);
            "a broker is gone"
        }
        2 => {
            for partition in 0..PARTITIONS as i32 {
                cluster.partition_leader(&events, partition, Some(random.random_range(1..=BROKERS))).unwrap();
            }
            let group = MockCoordinator::Group("any".to_owned());
            cluster.coordinator(group, random.random_range(1..=BROKERS)).unwrap();
            "partitions have other leaders"
        }
        3 => {
            cluster.request_errors(
                Request::Produce,
                &[
                    Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                    Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                    Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                ],
            );
            "produce fails"
        }
        4 => {
            cluster.request_errors(
                Request::Fetch,
                &[
                    Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                    Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                    Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
                ],
            );
            "fetch fails"
        }
        _ => {
            cluster.request_errors(
                Request::ListOffsets,
                &[Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
            );
            "asking for the bounds fails"
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_cluster_acknowledged_is_in_the_table_once_while_landers_come_and_go() {
    let (seconds, seed) = (number("FLYWHEEL_KAFKA_SECONDS", 10), number("FLYWHEEL_SEED", 7));
    println!("{seconds} s, FLYWHEEL_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let cluster = MockCluster::new(BROKERS).unwrap();
    // The mock knows no request that makes topics.
    cluster.create_topic(&format!("{PREFIX}{}", topic()), PARTITIONS as i32, BROKERS).unwrap();
    cluster.create_topic(&format!("{PREFIX}{}", sharing::TOPIC), 1, BROKERS).unwrap();
    let url = format!("kafka://{}?prefix={PREFIX}&timeout=2s", cluster.bootstrap_servers());
    let lake = lake_on(&memory());
    let log = KafkaLog::connect(&url).await.unwrap();
    let (stop, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let producers: Vec<_> =
        (0..PRODUCERS).map(|n| tokio::spawn(produce(log.clone(), n, stop.clone(), again.clone()))).collect();
    let landers = tokio::spawn(come_and_go(url, lake.clone(), Arc::clone(&stop)));

    let (mut changes, mut down) = (0, None);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        println!("{}", go_wrong(&cluster, &mut random, &mut down));
        changes += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..700))).await;
    }
    if let Some(broker) = down {
        cluster.broker_up(broker).unwrap();
    }
    for request in [Request::Produce, Request::Fetch, Request::ListOffsets] {
        cluster.clear_request_errors(request);
    }
    stop.store(true, Relaxed);
    let mut acknowledged = Vec::new();
    for producer in producers {
        acknowledged.extend(producer.await.unwrap());
    }
    let mut expected: Vec<_> =
        acknowledged.iter().flat_map(|(game, n)| (0..*n).map(move |seq| (game.clone(), seq))).collect();
    expected.sort();
    let landers = landers.await.unwrap();
    let all = common::until(async || {
        let landed = lake.table(TableName::Events).rows().await.unwrap_or_default();
        landed >= expected.len() as u64
    });
    tokio::time::timeout(PATIENCE, all).await.expect("all that was acknowledged is landed");
    let came = landers.len();
    let (mut repeats, mut fenced) = (0, 0);
    for lander in landers {
        lander.stop.cancel();
        lander.task.await.unwrap();
        repeats += lander.stats.duplicates.load(Relaxed);
        fenced += lander.stats.owned.fenced.load(Relaxed);
    }
    let landed = event_rows(&lake).await;
    println!(
        "{changes} changes of the cluster, {came} landers: {} events acknowledged, {} batches sent again, {repeats} repeats \
         dropped, {fenced} commits refused",
        expected.len(),
        again.load(Relaxed)
    );
    assert!(!expected.is_empty());
    let rows: Vec<_> = landed.iter().map(|(game, seq, ..)| (game.clone(), *seq)).collect();
    assert_eq!(rows.len(), expected.len(), "each once");
    assert_eq!(rows, expected);
    assert!(dead_rows(&lake).await.is_empty());
    let in_order = landed.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].2 < pair[1].2);
    assert!(in_order, "events of a game lie in the order of their `seq`");
}
