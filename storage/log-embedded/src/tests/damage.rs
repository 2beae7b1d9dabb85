//! Files that are no logs, or no longer: one clear error for each, nothing overwritten, no panic.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use flywheel_log::{EventLog, LogError, LogErrorKind, Position, ReadLimit, Record, Topic, TopicPartition};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{Database, ReadableDatabase, TableDefinition};
use tempfile::TempDir;

use super::{
    disk::{Cut, Disk},
    workload::{all, topic, try_open},
};
use crate::{
    EmbeddedConfig, EmbeddedLog, FORMAT_VERSION, codec,
    store::{BATCHES, ENDS, End, META, Store, TOPICS, Write, initialise},
};

fn file_in(dir: &TempDir) -> PathBuf {
    dir.path().join("log.redb")
}

fn open(dir: &Path) -> Result<Arc<EmbeddedLog>, LogError> {
    EmbeddedLog::open(dir, EmbeddedConfig { tail_bytes: 0, ..EmbeddedConfig::default() })
}

/// The writer thread lets go of the file a moment after the log is dropped.
async fn open_when_free(dir: &Path) -> Arc<EmbeddedLog> {
    let began = std::time::Instant::now();
    loop {
        match open(dir) {
            Ok(log) => return log,
            Err(error) => assert!(began.elapsed().as_secs() < 30, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The error, after a look that the file was left as it was.
fn refused(dir: &TempDir) -> LogError {
    let before = fs::read(file_in(dir)).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(fs::read(file_in(dir)).unwrap() == before, "the file was changed: {error}");
    assert!(error.to_string().contains("log.redb"), "{error}");
    error
}

fn value(n: u64) -> String {
    format!("needle {n} {}", "x".repeat(n as usize % 700))
}

const N: u64 = 60;

/// `FLYWHEEL_FLIPS=10000` is the long form.
fn n_flips() -> u32 {
    std::env::var("FLYWHEEL_FLIPS").map_or(300, |flips| flips.parse().expect("FLYWHEEL_FLIPS is a number"))
}

/// Two partitions with batches of one record, written in one transaction, so that few pages are free and damage matters.
/// As it is before it is closed, and after.
fn images() -> [Vec<u8>; 2] {
    let disk = Disk::with_log();
    let store = Store::over(disk.open().unwrap());
    let mut writes = vec![Write::Topic { topic: topic(), partitions: 2 }];
    for n in 0..N {
        let to = topic().partition((n % 2) as u32);
        let batch = codec::Encoder::new().encode(&[Record::new("k", value(n))], 1);
        writes.push(Write::Batch { to, last: n / 2, batch, end: End { next: n / 2 + 1, kept_from: 0, last_ms: 1 } });
    }
    store.write(&writes).unwrap();
    let image = || disk.after(Cut::Everything, &mut ChaCha8Rng::seed_from_u64(0));
    let open = image();
    drop(store);
    [open, image()]
}

#[tokio::test]
async fn a_text_file_in_the_place_of_the_log_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["hello", &"not a log, but the only copy of something\n".repeat(1000)] {
        fs::write(file_in(&dir), text).unwrap();
        let error = refused(&dir);
        assert!(matches!(error.kind(), LogErrorKind::InvalidData | LogErrorKind::Corrupt), "{error}");
    }
}

#[tokio::test]
async fn an_empty_file_in_the_place_of_the_log_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(file_in(&dir), "").unwrap();
    let error = refused(&dir);
    assert_eq!(error.kind(), LogErrorKind::InvalidData);
    assert!(error.to_string().contains("remove it"), "{error}");
}

#[tokio::test]
async fn a_redb_file_that_is_no_log_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = Database::create(file_in(&dir)).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, &str>::new("meta")).unwrap().insert(1, "mine").unwrap();
    write.commit().unwrap();
    drop(other);
    let error = refused(&dir);
    assert_eq!(error.kind(), LogErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("not a log"), "{error}");
}

#[tokio::test]
async fn a_log_of_a_newer_format_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let newer = Database::create(file_in(&dir)).unwrap();
    initialise(&newer).unwrap();
    let write = newer.begin_write().unwrap();
    let meta = TableDefinition::<&str, u64>::new("meta");
    write.open_table(meta).unwrap().insert("format", FORMAT_VERSION + 1).unwrap();
    write.commit().unwrap();
    drop(newer);
    let error = refused(&dir);
    assert_eq!(error.kind(), LogErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains(&format!("format {}", FORMAT_VERSION + 1)), "{error}");
}

/// As programs wrote it before batches were compressed: format 1, no name in the file.
fn make_old(dir: &Path) {
    let old = Database::create(dir.join("log.redb")).unwrap();
    initialise(&old).unwrap();
    let hex = include_str!("../golden/batch-1.hex").trim().as_bytes();
    let batch: Vec<u8> =
        hex.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect();
    let lane = topic().partition(0);
    let write = old.begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        meta.insert("format", 1).unwrap();
        meta.remove("id_high").unwrap();
        meta.remove("id_low").unwrap();
        write.open_table(TOPICS).unwrap().insert(topic().as_str(), 1).unwrap();
        write.open_table(BATCHES).unwrap().insert((topic().as_str(), lane.partition, 2), &batch[..]).unwrap();
        write.open_table(ENDS).unwrap().insert((topic().as_str(), lane.partition), (3, 0, 1_763_712_000_123)).unwrap();
    }
    write.commit().unwrap();
}

#[tokio::test]
async fn a_log_of_the_first_format_is_read_goes_on_and_is_none_of_the_older_programs_any_more() {
    let dir = tempfile::tempdir().unwrap();
    make_old(dir.path());
    let kept = "0f8fad5b-d9cb-469f-a165-70867728950e";
    fs::write(dir.path().join("id"), format!("{kept}\n")).unwrap();
    let lane = topic().partition(0);
    for n in 3..6 {
        let log = open_when_free(dir.path()).await;
        assert_eq!(log.identity(), kept, "the name that it had");
        assert_eq!(all(&log, &lane).await.unwrap().len(), n);
        log.append(&lane, vec![Record::new("k", "v".repeat(1000))]).await.unwrap();
    }
    let _free = open_when_free(dir.path()).await;
    drop(_free);
    let copy = dir.path().join("copy.redb");
    fs::copy(file_in(&dir), &copy).unwrap();
    let file = Database::open(copy).unwrap();
    let format = file.begin_read().unwrap().open_table(META).unwrap().get("format").unwrap().unwrap().value();
    assert_eq!(format, FORMAT_VERSION);
}

#[tokio::test]
async fn a_new_log_has_a_new_name_also_where_another_one_was() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap().identity().to_owned();
    let again = open_when_free(dir.path()).await;
    assert_eq!(again.identity(), first);
    drop(again);
    fs::write(dir.path().join("id"), &first).unwrap();
    fs::remove_file(file_in(&dir)).unwrap();
    let other = open_when_free(dir.path()).await;
    assert_ne!(other.identity(), first, "its offsets begin anew");
    assert!(uuid::Uuid::parse_str(other.identity()).is_ok(), "{}", other.identity());
}

#[tokio::test]
async fn what_an_unfinished_start_left_is_removed_and_the_log_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("log.redb.new-4711-1");
    fs::write(&left, "half").unwrap();
    let log = open(dir.path()).unwrap();
    log.create_topic(&topic(), 1).await.unwrap();
    assert!(!left.exists());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["log.redb"]);
}

#[tokio::test]
async fn of_many_who_make_the_log_at_once_one_gets_it_and_the_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(dir.path()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (held, told): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert!(held.len() <= 1);
    assert!(told.iter().all(|told| told.as_ref().unwrap_err().kind() == LogErrorKind::Conflict), "{told:?}");
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_refused_or_whole_up_to_a_clear_error() {
    let [_, bytes] = images();
    for length in (1..bytes.len()).step_by(bytes.len() / 40) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file_in(&dir), &bytes[..length]).unwrap();
        let error = refused(&dir);
        assert!(matches!(error.kind(), LogErrorKind::Corrupt | LogErrorKind::InvalidData), "{length}: {error}");
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_batch_is_named_by_its_offset_and_the_rest_is_served() {
    let (dir, [_, mut bytes]) = (tempfile::tempdir().unwrap(), images());
    let needle = value(31).into_bytes();
    let at: Vec<_> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(&needle)).collect();
    assert!(!at.is_empty());
    // Older states of the page may be there too.
    at.iter().for_each(|at| bytes[at + 10] ^= 1);
    fs::write(file_in(&dir), &bytes).unwrap();
    let log = open(dir.path()).unwrap();
    let limit = ReadLimit::default();
    let lane = |partition: u32| -> TopicPartition { topic().partition(partition) };
    assert_eq!(all(&log, &lane(0)).await.unwrap().len(), 30);
    // Event 31 is offset 15 of partition 1.
    let before = log.read(&lane(1), Position::Start, limit).await.unwrap();
    assert_eq!(before.len(), 15);
    let error = log.read(&lane(1), Position::After(before[14].offset), limit).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Corrupt);
    assert!(error.to_string().contains("fw.test.events/1@15"), "{error}");
    let after = flywheel_log::Offset::from_raw(15);
    assert_eq!(log.read(&lane(1), Position::After(after), limit).await.unwrap().len(), 14);
    log.append(&lane(1), vec![Record::new("k", "v")]).await.unwrap();
}

/// Wherever the byte lies: an error, or the very records. redb's own pages are among them.
#[tokio::test]
async fn no_flipped_byte_anywhere_makes_a_wrong_record_or_a_panic() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut n_refused, mut n_told, mut n_whole) = (0, 0, 0);
    for (flip, good) in (0..n_flips()).zip(images().iter().cycle()) {
        // Most of the file is empty or a map of free pages; the flips are for the other bytes.
        let used: Vec<_> = (0..good.len()).filter(|at| ![0, 0xff].contains(&good[*at])).collect();
        let at = used[random.random_range(0..used.len())];
        let mut bytes = good.clone();
        bytes[at] ^= 1 << random.random_range(0..8);
        let Ok(log) = Disk::holding(bytes).open().and_then(try_open) else {
            n_refused += 1;
            continue;
        };
        let mut told = false;
        for partition in 0..2 {
            match all(&log, &topic().partition(partition)).await {
                Ok(found) => {
                    for record in found {
                        let n = record.offset.raw() * 2 + u64::from(partition);
                        assert_eq!(record.value, value(n), "flip {flip}, byte {at}");
                    }
                }
                Err(_) => told = true,
            }
        }
        n_told += u32::from(told);
        n_whole += u32::from(!told);
    }
    println!(
        "{} flips: {n_refused} refused at the start, {n_told} told by a read, {n_whole} without effect on records",
        n_flips()
    );
    assert!(n_refused > 0 && n_told > 0, "{n_refused} {n_told} {n_whole}");
}

#[tokio::test]
async fn a_topic_with_more_partitions_than_make_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let error = log.create_topic(&Topic::new("t"), u32::MAX).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::InvalidData);
}
