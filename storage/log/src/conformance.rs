//! What every [`EventLog`] must do, as plain async functions over a fixture.
//!
//! ```ignore
//! flywheel_log::event_log_conformance!(MyFixture);
//! ```

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    EventLog, GroupMember, LogErrorKind, MAX_BATCH_BYTES, Offset, Position, RECORD_OVERHEAD, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition,
};

/// Makes logs for the suite.
pub trait LogFixture: Send + Sync {
    /// An empty log.
    fn fresh(&self) -> impl Future<Output = Arc<dyn EventLog>> + Send;
}

/// Makes logs that survive being closed.
pub trait DurableLogFixture: LogFixture {
    /// Closes `log` and opens what it left.
    fn reopen(&self, log: Arc<dyn EventLog>) -> impl Future<Output = Arc<dyn EventLog>> + Send;
}

const NOW: ReadLimit = ReadLimit { max_records: 10_000, max_bytes: 8 << 20, max_wait: Duration::ZERO };
/// Long enough for the slowest machine; a test that waits this long has failed.
const LONG: ReadLimit = ReadLimit { max_wait: Duration::from_secs(30), ..NOW };

fn topic() -> Topic {
    Topic::new("fw.test.events")
}

fn lane() -> TopicPartition {
    topic().partition(0)
}

fn records(values: &[&str]) -> Vec<Record> {
    values.iter().map(|value| Record::new("game", value.to_string())).collect()
}

fn values(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

async fn with_topic(fixture: &impl LogFixture) -> Arc<dyn EventLog> {
    let log = fixture.fresh().await;
    log.create_topic(&topic(), 2).await.unwrap();
    log
}

async fn kind_of<T: std::fmt::Debug>(result: impl Future<Output = Result<T, crate::LogError>>) -> LogErrorKind {
    result.await.unwrap_err().kind()
}

/// Records come back in the order in which they were appended, byte for byte, with rising offsets and times.
pub async fn records_are_read_in_the_order_of_appends(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let odd =
        vec![Record::new(vec![0u8, 255], vec![0u8; 3]), Record::new("", ""), Record::new("k", vec![200u8; 70_000])];
    let last = log.append(&lane(), odd.clone()).await.unwrap();
    log.append(&lane(), records(&["x"])).await.unwrap();
    let found = log.read(&lane(), Position::Start, NOW).await.unwrap();
    assert_eq!(found.len(), 4);
    for (stored, record) in found.iter().zip(&odd) {
        assert_eq!((&stored.key, &stored.value), (&record.key, &record.value));
    }
    assert_eq!(found[2].offset, last);
    assert!(found.windows(2).all(|pair| pair[0].offset < pair[1].offset && pair[0].ingest_ms <= pair[1].ingest_ms));
    assert!(log.read(&topic().partition(1), Position::Start, NOW).await.unwrap().is_empty());
}

/// Reading after an offset never repeats that record, whatever gaps the backend leaves.
pub async fn reading_resumes_after_an_offset(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let first = log.append(&lane(), records(&["a", "b", "c"])).await.unwrap();
    log.append(&lane(), records(&["d", "e"])).await.unwrap();
    let all = log.read(&lane(), Position::Start, NOW).await.unwrap();
    assert_eq!(values(&log.read(&lane(), Position::After(first), NOW).await.unwrap()), ["d", "e"]);
    for (n, record) in all.iter().enumerate() {
        let rest = log.read(&lane(), Position::After(record.offset), NOW).await.unwrap();
        assert_eq!(values(&rest), values(&all[n + 1..]));
    }
}

/// Limits cut a read short without losing a record, and never to nothing.
pub async fn a_small_limit_still_makes_progress(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    log.append(&lane(), records(&["aaaa", "bbbb", "cccc"])).await.unwrap();
    let one = ReadLimit { max_bytes: 1, ..NOW };
    let (mut position, mut seen) = (Position::Start, Vec::new());
    loop {
        let found = log.read(&lane(), position, one).await.unwrap();
        let Some(last) = found.last() else { break };
        assert_eq!(found.len(), 1);
        position = Position::After(last.offset);
        seen.extend(values(&found));
    }
    assert_eq!(seen, ["aaaa", "bbbb", "cccc"]);
    let two = log.read(&lane(), Position::Start, ReadLimit { max_records: 2, ..NOW }).await.unwrap();
    assert_eq!(values(&two), ["aaaa", "bbbb"]);
}

/// A waiting reader wakes when something is appended, and an empty wait ends.
pub async fn a_waiting_reader_wakes_on_append(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let short = ReadLimit { max_wait: Duration::from_millis(20), ..NOW };
    assert!(log.read(&lane(), Position::Start, short).await.unwrap().is_empty());
    let reader = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.read(&lane(), Position::Start, LONG).await.unwrap() })
    };
    tokio::task::yield_now().await;
    log.append(&lane(), records(&["late"])).await.unwrap();
    assert_eq!(values(&reader.await.unwrap()), ["late"]);
    // A waiting read must not hold up an append of the same client, at the end of the log as well.
    let last = log.bounds(&lane()).await.unwrap().last.unwrap();
    let lane = lane();
    let (found, appended) =
        tokio::join!(log.read(&lane, Position::After(last), LONG), log.append(&lane, records(&["more"])));
    assert_eq!((values(&found.unwrap()), appended.is_ok()), (vec!["more".to_owned()], true));
}

/// Batches of concurrent writers are kept whole and none is lost.
pub async fn concurrent_batches_are_kept_whole(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for b in 0..10 {
                    let batch = (0..5).map(|i| Record::new("k", format!("{w}-{b}-{i}"))).collect();
                    log.append(&lane(), batch).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let found = values(&log.read(&lane(), Position::Start, NOW).await.unwrap());
    assert_eq!(found.len(), 400);
    for batch in found.chunks(5) {
        let head = batch[0].rsplit_once('-').unwrap().0;
        assert_eq!(batch, (0..5).map(|i| format!("{head}-{i}")).collect::<Vec<_>>());
    }
    for w in 0..8 {
        let order: Vec<_> = found.iter().filter(|v| v.starts_with(&format!("{w}-"))).collect();
        let expected: Vec<_> = (0..10).flat_map(|b| (0..5).map(move |i| format!("{w}-{b}-{i}"))).collect();
        assert_eq!(order, expected.iter().collect::<Vec<_>>());
    }
}

/// Trimmed records are gone, readers are told so, and offsets are not used again.
pub async fn trimming_is_told_to_readers(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    log.append(&lane(), records(&["a", "b", "c"])).await.unwrap();
    let all = log.read(&lane(), Position::Start, NOW).await.unwrap();
    log.trim(&lane(), all[1].offset).await.unwrap();
    log.trim(&lane(), all[1].offset).await.unwrap();
    assert_eq!(kind_of(log.read(&lane(), Position::After(all[0].offset), NOW)).await, LogErrorKind::Trimmed);
    assert_eq!(values(&log.read(&lane(), Position::Start, NOW).await.unwrap()), ["c"]);
    assert_eq!(values(&log.read(&lane(), Position::After(all[1].offset), NOW).await.unwrap()), ["c"]);
    let bounds = log.bounds(&lane()).await.unwrap();
    assert_eq!(
        (bounds.first, bounds.last, bounds.trimmed),
        (Some(all[2].offset), Some(all[2].offset), Some(all[1].offset))
    );
    log.trim(&lane(), Offset::from_raw(i64::MAX as u64)).await.unwrap();
    let bounds = log.bounds(&lane()).await.unwrap();
    assert_eq!((bounds.first, bounds.last, bounds.trimmed), (None, None, Some(all[2].offset)));
    let next = log.append(&lane(), records(&["d"])).await.unwrap();
    assert!(next > all[2].offset);
    assert_eq!(values(&log.read(&lane(), Position::After(all[2].offset), NOW).await.unwrap()), ["d"]);
}

/// Unknown places, conflicting topics, empty and oversized batches are refused by kind.
pub async fn what_cannot_be_is_refused(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let nowhere = Topic::new("fw.nowhere").partition(0);
    assert_eq!(kind_of(log.append(&nowhere, records(&["a"]))).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.append(&topic().partition(9), records(&["a"]))).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.read(&nowhere, Position::Start, NOW)).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.bounds(&nowhere)).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.join(&nowhere.topic, "g", "m")).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.trim(&nowhere, Offset::from_raw(0))).await, LogErrorKind::NotFound);
    assert_eq!(kind_of(log.create_topic(&topic(), 3)).await, LogErrorKind::Conflict);
    assert_eq!(kind_of(log.create_topic(&nowhere.topic, 0)).await, LogErrorKind::Conflict);
    log.create_topic(&topic(), 2).await.unwrap();
    assert_eq!(log.topics().await.unwrap(), [(topic(), 2)]);
    assert_eq!(kind_of(log.append(&lane(), Vec::new())).await, LogErrorKind::InvalidData);
    let large = vec![Record::new("k", vec![0u8; MAX_BATCH_BYTES + 1])];
    assert_eq!(kind_of(log.append(&lane(), large)).await, LogErrorKind::InvalidData);
    let crumbs = vec![Record::new("", ""); MAX_BATCH_BYTES / RECORD_OVERHEAD + 1];
    assert_eq!(kind_of(log.append(&lane(), crumbs)).await, LogErrorKind::InvalidData);
    assert_eq!(log.bounds(&lane()).await.unwrap(), Default::default());
}

/// Whoever pages through a long log with small limits sees what one read sees, each record once.
pub async fn a_long_log_is_read_in_bounded_pieces(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    for batch in 0..60 {
        let records = (0..1 + batch % 7).map(|i| Record::new("k", vec![b'a' + batch as u8 % 26; 40 * i + batch]));
        log.append(&lane(), records.collect()).await.unwrap();
    }
    let all = log.read(&lane(), Position::Start, NOW).await.unwrap();
    for (max_records, max_bytes) in [(1, 1 << 20), (3, 300), (7, 1 << 20), (1000, 1000), (1000, 100_000)] {
        let limit = ReadLimit { max_records, max_bytes, ..NOW };
        let (mut position, mut pieces) = (Position::Start, Vec::new());
        loop {
            let piece = log.read(&lane(), position, limit).await.unwrap();
            let Some(last) = piece.last() else { break };
            let bytes: usize = piece.iter().map(|r| r.key.len() + r.value.len()).sum();
            assert!(piece.len() <= max_records && (bytes <= max_bytes || piece.len() == 1), "{limit:?}");
            position = Position::After(last.offset);
            pieces.extend(piece);
        }
        assert_eq!(pieces, all, "{limit:?}");
    }
}

/// Topics and partitions know nothing of each other, and a wait on one does not end with an append to another.
pub async fn topics_and_partitions_are_apart(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let other = Topic::new("fw.test.events2");
    let made: Vec<_> = (0..4)
        .map(|_| {
            let (log, other) = (Arc::clone(&log), other.clone());
            tokio::spawn(async move { log.create_topic(&other, 3).await })
        })
        .collect();
    for made in made {
        made.await.unwrap().unwrap();
    }
    assert_eq!(log.topics().await.unwrap(), [(topic(), 2), (other.clone(), 3)]);
    let lanes = [lane(), topic().partition(1), other.partition(0), other.partition(2)];
    for (n, lane) in lanes.iter().enumerate() {
        log.append(lane, records(&[&format!("{n}")])).await.unwrap();
    }
    for (n, lane) in lanes.iter().enumerate() {
        assert_eq!(values(&log.read(lane, Position::Start, NOW).await.unwrap()), [format!("{n}")]);
    }
    let (empty, short) = (other.partition(1), ReadLimit { max_wait: Duration::from_millis(30), ..NOW });
    let (found, appended) =
        tokio::join!(log.read(&empty, Position::Start, short), log.append(&lanes[3], records(&["x"])));
    assert_eq!((found.unwrap(), appended.is_ok()), (Vec::new(), true));
    log.trim(&lanes[2], Offset::from_raw(i64::MAX as u64)).await.unwrap();
    assert_eq!(values(&log.read(&lanes[0], Position::Start, NOW).await.unwrap()), ["0"]);
}

/// However many readers wait, appends of the same client go through, and all of them wake.
pub async fn many_waiting_readers_do_not_hold_up_an_append(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.read(&lane(), Position::Start, LONG).await.unwrap() })
        })
        .collect();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    log.append(&topic().partition(1), records(&["elsewhere"])).await.unwrap();
    log.append(&lane(), records(&["at last"])).await.unwrap();
    for reader in readers {
        assert_eq!(values(&reader.await.unwrap()), ["at last"]);
    }
}

/// Calls that are given up half way leave whole batches or none, and harm nobody else.
pub async fn calls_that_are_given_up_leave_the_log_whole(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let mut kept = Vec::new();
    for n in 0..60_u32 {
        let patience = Duration::from_micros(u64::from(n) * 37 % 1500);
        let batch = (0..3).map(|i| Record::new("given up", [vec![n as u8, i], vec![7; 100_000]].concat())).collect();
        let lane = lane();
        let (append, read) = (log.append(&lane, batch), log.read(&lane, Position::Start, LONG));
        // Both futures are dropped when the time is up.
        let _given_up = tokio::time::timeout(patience, async { tokio::join!(append, read) }).await;
        kept.push(log.append(&lane, vec![Record::new("kept", n.to_le_bytes().to_vec())]).await.unwrap());
    }
    let (mut position, mut all) = (Position::Start, Vec::new());
    loop {
        let piece = log.read(&lane(), position, NOW).await.unwrap();
        let Some(last) = piece.last() else { break };
        position = Position::After(last.offset);
        all.extend(piece);
    }
    let (given_up, rest): (Vec<_>, Vec<_>) = all.iter().partition(|record| record.key == "given up");
    assert_eq!(rest.iter().map(|record| record.offset).collect::<Vec<_>>(), kept);
    assert_eq!(given_up.len() % 3, 0);
    for batch in given_up.chunks(3) {
        assert!(batch.iter().all(|record| record.value[0] == batch[0].value[0] && record.value.len() == 100_002));
        assert_eq!(batch.iter().map(|record| record.value[1]).collect::<Vec<_>>(), [0, 1, 2]);
    }
}

/// Each record goes to one member; who comes back goes on after what the group committed.
pub async fn a_group_shares_a_topic_and_goes_on_after_its_commits(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    for partition in 0..2 {
        log.append(&topic().partition(partition), records(&["a", "b"])).await.unwrap();
    }
    let mut one = log.join(&topic(), "g", "one").await.unwrap();
    let mut two = log.join(&topic(), "g", "two").await.unwrap();
    let (mine, theirs) = (one.assigned().await.unwrap(), two.assigned().await.unwrap());
    assert_eq!((mine.len(), theirs.len()), (1, 1));
    assert_ne!(mine, theirs);
    let found = one.poll(LONG).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(lane, _)| *lane == mine[0]));
    one.commit(&mine[0], found[0].1.offset).await.unwrap();
    assert_eq!(kind_of(one.commit(&theirs[0], found[0].1.offset)).await, LogErrorKind::Fenced);
    assert_eq!(two.poll(LONG).await.unwrap().len(), 2);
    // `two` leaves without a commit, `one` after one of two: all the rest comes again.
    drop((one, two));
    let mut three = log.join(&topic(), "g", "three").await.unwrap();
    while three.assigned().await.unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut again = Vec::new();
    while again.len() < 3 {
        again.extend(three.poll(LONG).await.unwrap());
    }
    assert_eq!(again.iter().filter(|(lane, _)| *lane == mine[0]).count(), 1);
    assert!(three.poll(NOW).await.unwrap().is_empty());
}

/// A member that leaves leaves its partitions to the others, who are given what it did not commit.
pub async fn a_member_that_leaves_hands_over_what_it_did_not_commit(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    for partition in 0..2 {
        log.append(&topic().partition(partition), records(&["a", "b", "c"])).await.unwrap();
    }
    let mut one = log.join(&topic(), "g", "one").await.unwrap();
    assert_eq!(one.assigned().await.unwrap().len(), 2);
    let first = gather(&mut *one, 6).await;
    let mut two = log.join(&topic(), "g", "two").await.unwrap();
    let theirs = wait_for_lanes(&*two, 1).await.remove(0);
    let mine = wait_for_lanes(&*one, 1).await.remove(0);
    assert_ne!(mine, theirs);
    // What `one` was given of the partition that went is no longer its to commit.
    let of_theirs: Vec<_> = first.iter().filter(|(lane, _)| *lane == theirs).collect();
    assert_eq!(kind_of(one.commit(&theirs, of_theirs[2].1.offset)).await, LogErrorKind::Fenced);
    let again = gather(&mut *two, 3).await;
    assert_eq!(
        again.iter().map(|(_, record)| record).collect::<Vec<_>>(),
        [&of_theirs[0].1, &of_theirs[1].1, &of_theirs[2].1]
    );
    two.commit(&theirs, again[0].1.offset).await.unwrap();
    drop(two);
    wait_for_lanes(&*one, 2).await;
    // Back again, it must not skip what it was given before and was kept from committing.
    let rest = gather(&mut *one, 2).await;
    assert_eq!(
        rest.iter().map(|(lane, r)| (lane, &r.value[..])).collect::<Vec<_>>(),
        [(&theirs, &b"b"[..]), (&theirs, b"c")]
    );
    one.commit(&theirs, rest[1].1.offset).await.unwrap();
}

/// Groups do not share commits, and a waiting member wakes on append.
pub async fn groups_are_independent_and_members_wait(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let mut one = log.join(&topic(), "g", "m").await.unwrap();
    let waiting = tokio::spawn(async move {
        let found = one.poll(LONG).await.unwrap();
        one.commit(&found[0].0, found[0].1.offset).await.unwrap();
        drop(one);
        found.len()
    });
    tokio::task::yield_now().await;
    log.append(&lane(), records(&["a"])).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
    let mut other = log.join(&topic(), "h", "m").await.unwrap();
    assert_eq!(gather(&mut *other, 1).await.len(), 1);
    let mut same = log.join(&topic(), "g", "m2").await.unwrap();
    wait_for_lanes(&*same, 2).await;
    log.append(&lane(), records(&["b"])).await.unwrap();
    assert_eq!(gather(&mut *same, 1).await[0].1.value, "b");
}

/// A poll that its caller gave up has given nothing: the records come with a later one.
pub async fn a_poll_that_is_given_up_skips_nothing(fixture: &impl LogFixture) {
    let log = with_topic(fixture).await;
    let mut member = log.join(&topic(), "g", "m").await.unwrap();
    for n in 0..40_u64 {
        let lane = topic().partition(n as u32 % 2);
        let last = log.append(&lane, records(&[&format!("{n}")])).await.unwrap();
        let mut seen = Vec::new();
        for patience in [n * 13 % 300, n * 29 % 900] {
            if let Ok(polled) = tokio::time::timeout(Duration::from_micros(patience), member.poll(NOW)).await {
                seen.extend(polled.unwrap());
            }
        }
        while !seen.iter().any(|(of, record)| *of == lane && record.offset == last) {
            let polled = member.poll(LONG).await.unwrap();
            assert!(!polled.is_empty(), "record {n} was skipped");
            seen.extend(polled);
        }
        member.commit(&lane, last).await.unwrap();
    }
}

async fn wait_for_lanes(member: &dyn GroupMember, n: usize) -> Vec<TopicPartition> {
    loop {
        let lanes = member.assigned().await.unwrap();
        if lanes.len() == n {
            return lanes;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn gather(member: &mut dyn GroupMember, n: usize) -> Vec<(TopicPartition, StoredRecord)> {
    let mut all = Vec::new();
    while all.len() < n {
        let found = member.poll(LONG).await.unwrap();
        assert!(!found.is_empty(), "{} of {n} records came", all.len());
        all.extend(found);
    }
    all
}

/// What was acknowledged, committed and trimmed is the same after a restart.
pub async fn a_restart_keeps_everything(fixture: &impl DurableLogFixture) {
    let log = with_topic(fixture).await;
    for n in 0..50 {
        log.append(&lane(), records(&[&format!("{n}"), "second"])).await.unwrap();
    }
    let before = log.read(&lane(), Position::Start, NOW).await.unwrap();
    log.trim(&lane(), before[10].offset).await.unwrap();
    let mut member = log.join(&topic(), "g", "m").await.unwrap();
    member.commit(&lane(), before[20].offset).await.unwrap();
    drop(member);
    let log = fixture.reopen(log).await;
    assert_eq!(log.topics().await.unwrap(), [(topic(), 2)]);
    assert_eq!(log.read(&lane(), Position::Start, NOW).await.unwrap(), before[11..]);
    assert_eq!(log.bounds(&lane()).await.unwrap().trimmed, Some(before[10].offset));
    let mut member = log.join(&topic(), "g", "m").await.unwrap();
    assert_eq!(member.poll(LONG).await.unwrap()[0].1.offset, before[21].offset);
    let next = log.append(&lane(), records(&["after"])).await.unwrap();
    assert!(next > before.last().unwrap().offset);
}

/// Restart after restart: nothing is lost, offsets are never used twice, time does not fall.
pub async fn many_restarts_keep_order_and_offsets(fixture: &impl DurableLogFixture) {
    let mut log = with_topic(fixture).await;
    let mut last = None;
    for n in 0..8 {
        let offset = log.append(&lane(), records(&[&format!("{n}")])).await.unwrap();
        assert!(Some(offset) > last);
        last = Some(offset);
        if n % 3 == 2 {
            log.trim(&lane(), offset).await.unwrap();
        }
        log = fixture.reopen(log).await;
        let bounds = log.bounds(&lane()).await.unwrap();
        assert_eq!(bounds.last.or(bounds.trimmed), last);
    }
    let found = log.read(&lane(), Position::Start, NOW).await.unwrap();
    assert_eq!(values(&found), ["6", "7"]);
    assert!(found[0].ingest_ms <= found[1].ingest_ms);
    assert_eq!(kind_of(log.create_topic(&topic(), 5)).await, LogErrorKind::Conflict);
}

/// Lists the suite: each function becomes a test of its own.
#[macro_export]
macro_rules! event_log_conformance {
    ($fixture:expr) => {
        $crate::event_log_conformance!(@tests $fixture;
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
        );
    };
    (@tests $fixture:expr; $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::$name(&$fixture).await;
            }
        )*
    };
}

/// The second suite: for logs that survive their process.
#[macro_export]
macro_rules! durable_log_conformance {
    ($fixture:expr) => {
        $crate::event_log_conformance!(@tests $fixture;
            a_restart_keeps_everything,
            many_restarts_keep_order_and_offsets,
        );
    };
}
