//! The suite of the log seam, unchanged, on a real Apache Kafka broker, and what Kafka alone can break.

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flywheel_log::{
    EventLog, LogErrorKind, Position, ReadLimit, Record, Topic,
    conformance::{self, DurableLogFixture, LogFixture},
};
use flywheel_log_kafka::KafkaLog;
use harness::{Broker, Doors};

/// Logs on one broker, told apart by their prefix.
struct Kafka<'a>(&'a Broker);

static LOGS: AtomicU32 = AtomicU32::new(0);

impl Kafka<'_> {
    fn url(&self, n: u32) -> String {
        self.0.url(&format!("prefix=t{n}-"))
    }
}

impl LogFixture for Kafka<'_> {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        KafkaLog::connect(&self.url(LOGS.fetch_add(1, Ordering::Relaxed) + 1)).await.unwrap()
    }
}

impl DurableLogFixture for Kafka<'_> {
    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        drop(log);
        KafkaLog::connect(&self.url(LOGS.load(Ordering::Relaxed))).await.unwrap()
    }
}

/// One broker for the whole suite: it takes longer to start than a case takes to run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_of_the_log_seam_passes_on_a_real_broker_and_kills_lose_nothing_acknowledged() {
    let Some(mut broker) = Broker::start(&Doors::default()).await else { return };
    let wanted = std::env::var("FLYWHEEL_CASE").unwrap_or_default();
    macro_rules! cases {
        ($($name:ident),* $(,)?) => {$(
            if stringify!($name).contains(&wanted) {
                let began = std::time::Instant::now();
                eprintln!("case {}", stringify!($name));
                tokio::time::timeout(Duration::from_secs(120), conformance::$name(&Kafka(&broker)))
                    .await
                    .expect(concat!(stringify!($name), " ends"));
                eprintln!("     {:?}", began.elapsed());
            }
        )*};
    }
    cases!(
        records_are_read_in_the_order_of_appends,
        reading_resumes_after_an_offset,
        a_small_limit_still_makes_progress,
        a_waiting_reader_wakes_on_append,
        concurrent_batches_are_kept_whole,
        trimming_is_told_to_readers,
        what_cannot_be_is_refused,
        a_long_log_is_read_in_bounded_pieces,
        topics_and_partitions_are_apart,
        many_waiting_readers_do_not_hold_up_an_append,
        calls_that_are_given_up_leave_the_log_whole,
        a_group_shares_a_topic_and_goes_on_after_its_commits,
        a_member_that_leaves_hands_over_what_it_did_not_commit,
        groups_are_independent_and_members_wait,
        a_poll_that_is_given_up_skips_nothing,
        a_restart_keeps_everything,
        many_restarts_keep_order_and_offsets,
    );
    if wanted.is_empty() || wanted == "kill" {
        kills_of_the_broker_lose_nothing_acknowledged(&mut broker).await;
    }
}

/// `kill -9` while a producer appends; restart on the same folder; all that was acknowledged is there, in order.
async fn kills_of_the_broker_lose_nothing_acknowledged(broker: &mut Broker) {
    let log = KafkaLog::connect(&broker.url("prefix=kill-&timeout=3s")).await.unwrap();
    let lane = Topic::new("events").partition(0);
    log.create_topic(&lane.topic, 1).await.unwrap();
    for round in 0..2_u32 {
        let writer = {
            let (log, lane) = (Arc::clone(&log), lane.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let batch = (0..3).map(|i| Record::new("k", format!("{round}-{n}-{i}"))).collect();
                    match log.append(&lane, batch).await {
                        Ok(last) => acknowledged.push((last, format!("{round}-{n}-2"))),
                        Err(error) => return (acknowledged, error),
                    }
                }
                unreachable!("the broker is killed")
            })
        };
        tokio::time::sleep(Duration::from_millis(700)).await;
        broker.kill();
        let (acknowledged, error) = writer.await.unwrap();
        assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error}");
        assert!(
            error.to_string().contains("URL of the log") || error.to_string().contains("security.protocol"),
            "{error}"
        );
        assert!(!acknowledged.is_empty());
        broker.launch().await;
        let mut all = Vec::new();
        let mut position = Position::Start;
        loop {
            match log.read(&lane, position, ReadLimit::default()).await {
                Ok(found) if found.is_empty() => break,
                Ok(found) => {
                    position = Position::After(found.last().unwrap().offset);
                    all.extend(found);
                }
                Err(error) => assert!(error.kind().is_retryable(), "{error}"),
            }
        }
        for (last, value) in &acknowledged {
            assert!(all.iter().any(|r| r.offset == *last && r.value == value.as_bytes()), "{value} at {last}");
        }
        // The batch in flight at the kill is there whole or not at all.
        assert_eq!(all.len() % 3, 0);
        eprintln!("kill {round}: {} batches acknowledged, {} records there", acknowledged.len(), all.len());
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_with_the_setting_and_the_fix() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = KafkaLog::connect(&format!("kafka://127.0.0.1:{port}?timeout=1s")).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    let said = error.to_string();
    assert!(said.contains(&format!("kafka://127.0.0.1:{port}")) && said.contains("start the broker"), "{said}");
}
