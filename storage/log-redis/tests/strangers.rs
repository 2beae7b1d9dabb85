//! Programs that never heard of us write into a partition's stream as they like.

mod support;

use flywheel_log::{EventLog, LogError, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition};
use flywheel_log_redis::RedisLog;
use redis::Script;
use support::Server;

fn lane() -> TopicPartition {
    Topic::new("fw.tank.events").partition(0)
}

/// Added by a stranger: an id, and fields with contents.
fn add(server: &Server, id: &str, fields: &[&str]) -> String {
    let mut command = redis::cmd("XADD");
    command.arg("flywheel:{fw.tank.events:0}").arg(id).arg(fields);
    command.query(&mut server.connection()).unwrap()
}

async fn fresh(server: &Server) -> std::sync::Arc<RedisLog> {
    let log = RedisLog::connect(&server.url()).await.unwrap();
    log.create_topic(&lane().topic, 1).await.unwrap();
    assert_eq!(log.stream_of(&lane()), "flywheel:{fw.tank.events:0}");
    log
}

async fn append(log: &RedisLog, value: &str) -> Result<flywheel_log::Offset, LogError> {
    log.append(&lane(), vec![Record::new("ours", value.to_owned())]).await
}

/// Everything, by reads of `n` records.
async fn all(log: &RedisLog, n: usize) -> Vec<StoredRecord> {
    let (mut position, mut all) = (Position::Start, Vec::<StoredRecord>::new());
    loop {
        let limit = ReadLimit { max_records: n, ..ReadLimit::default() };
        let piece = log.read(&lane(), position, limit).await.unwrap();
        let Some(last) = piece.last() else { break };
        position = Position::After(last.offset);
        all.extend(piece);
    }
    assert!(all.windows(2).all(|pair| pair[0].offset < pair[1].offset && pair[0].ingest_ms <= pair[1].ingest_ms));
    all
}

fn values(records: &[StoredRecord]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.value).unwrap()).collect()
}

#[tokio::test]
async fn the_envelope_in_a_field_is_a_record_and_anything_else_a_bad_record() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    add(&server, "*", &["event", "{\"id\":1}"]);
    add(&server, "*", &["data", "{\"id\":2}"]);
    append(&log, "3").await.unwrap();
    add(&server, "*", &["key", "k", "event", "{\"id\":4}", "more", "x"]);
    add(&server, "*", &["temperature", "warm", "colour", "red"]);
    append(&log, "6").await.unwrap();
    let all = all(&log, 100).await;
    assert_eq!(
        values(&all),
        ["{\"id\":1}", "{\"id\":2}", "3", "{\"id\":4}", "{\"temperature\":\"warm\",\"colour\":\"red\"}", "6"]
    );
    assert_eq!(all[3].key, "k");
}

#[tokio::test]
async fn ids_beyond_all_offsets_stall_no_reader_and_no_append() {
    if !support::is_there() {
        return;
    }
    for odd in
        ["18446744073709551615-1", "18446744073709551615-18446744073709551615", "4102444800000-0", "9000000000000-5"]
    {
        for reads_first in [true, false] {
            let server = Server::start("always");
            let log = fresh(&server).await;
            append(&log, "a").await.unwrap();
            add(&server, "*", &["event", "b"]);
            add(&server, odd, &["event", "c"]);
            if reads_first {
                assert_eq!(values(&all(&log, 1).await), ["a", "b", "c"], "{odd}");
            }
            let offset = append(&log, "d").await.unwrap();
            add(&server, "*", &["event", "e"]);
            let found = all(&log, 100).await;
            assert_eq!(values(&found), ["a", "b", "c", "d", "e"], "{odd}");
            assert_eq!(found[3].offset, offset);
            let bounds = log.bounds(&lane()).await.unwrap();
            assert_eq!((bounds.first, bounds.last), (Some(found[0].offset), Some(found[4].offset)));
            log.trim(&lane(), found[2].offset).await.unwrap();
            assert_eq!(values(&all(&log, 100).await), ["d", "e"]);
        }
    }
}

#[tokio::test]
async fn a_large_sequence_in_the_middle_is_read_in_its_place() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    add(&server, "1000-1", &["event", "a"]);
    add(&server, "1000-2097151", &["event", "b"]);
    add(&server, "1000-2097152", &["event", "c"]);
    add(&server, "1000-18446744073709551615", &["event", "d"]);
    append(&log, "e").await.unwrap();
    add(&server, "*", &["event", "f"]);
    assert_eq!(values(&all(&log, 2).await), ["a", "b", "c", "d", "e", "f"]);
    append(&log, "g").await.unwrap();
    assert_eq!(values(&all(&log, 100).await), ["a", "b", "c", "d", "e", "f", "g"]);
}

#[tokio::test]
async fn bounds_and_trims_meet_odd_ids_first() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    add(&server, "5-2097152", &["event", "a"]);
    add(&server, "9000000000000-5", &["event", "b"]);
    let bounds = log.bounds(&lane()).await.unwrap();
    let found = all(&log, 100).await;
    assert_eq!((bounds.first, bounds.last), (Some(found[0].offset), Some(found[1].offset)));
    add(&server, "8999999999999-0", &["event", "c"]);
    log.trim(&lane(), flywheel_log::Offset::from_raw(i64::MAX as u64)).await.unwrap();
    log.bounds(&lane()).await.unwrap();
    append(&log, "d").await.unwrap();
    let left = all(&log, 100).await;
    assert_eq!(values(&left), ["c", "d"]);
}

#[tokio::test]
async fn an_odd_newest_id_whose_entry_is_gone_refuses_no_append() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    let first = append(&log, "a").await.unwrap();
    add(&server, "18446744073709551615-18446744073709551615", &["event", "gone"]);
    let _: u64 = server.ask("XDEL flywheel:{fw.tank.events:0} 18446744073709551615-18446744073709551615");
    assert!(append(&log, "b").await.unwrap() > first);
    assert_eq!(values(&all(&log, 100).await), ["a", "b"]);
}

#[tokio::test]
async fn thousands_of_odd_entries_and_very_wide_ones_keep_their_order() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    append(&log, "first").await.unwrap();
    let mut pipe = redis::pipe();
    for n in 0..3000_u32 {
        pipe.cmd("XADD").arg("flywheel:{fw.tank.events:0}").arg(format!("9000000000000-{n}")).arg("event").arg(n);
    }
    let _: redis::Value = pipe.query(&mut server.connection()).unwrap();
    let wide: Vec<String> = (0..9000).map(|n| format!("f{n}")).collect();
    let mut fields: Vec<&str> = wide.iter().map(String::as_str).collect();
    fields.extend(["event", "wide"]);
    add(&server, "*", &fields);
    append(&log, "last").await.unwrap();
    let found = all(&log, 700).await;
    let expected: Vec<_> = ["first".to_owned()]
        .into_iter()
        .chain((0..3000).map(|n| n.to_string()))
        .chain(["wide".to_owned(), "last".to_owned()])
        .collect();
    assert_eq!(values(&found), expected);
}

/// Newer servers never lower a stream's newest id below one that was deleted: there the stream is copied.
#[tokio::test]
async fn renumbering_by_copy_leaves_the_same_records() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    for n in 0..1200 {
        add(&server, "*", &["event", &format!("{n}")]);
    }
    add(&server, "9000000000000-5", &["event", "1200"]);
    add(&server, "*", &["event", "1201"]);
    let script = concat!(include_str!("../src/scripts/ids.lua"), include_str!("../src/scripts/renumber.lua"));
    let stream = log.stream_of(&lane());
    let n: u64 = Script::new(script)
        .key(&stream)
        .key(format!("{stream}:meta"))
        .arg("")
        .arg("copy")
        .invoke(&mut server.connection())
        .unwrap();
    assert_eq!(n, 2);
    append(&log, "1202").await.unwrap();
    assert_eq!(values(&all(&log, 100).await), (0..1203).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_of_another_kind_is_a_conflict_that_names_the_setting() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    let _: String = server.ask("SET flywheel:{fw.tank.events:0} text");
    for error in [
        append(&log, "a").await.unwrap_err(),
        log.read(&lane(), Position::Start, ReadLimit::default()).await.unwrap_err(),
        log.trim(&lane(), flywheel_log::Offset::from_raw(9)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), flywheel_log::LogErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("prefix="), "{error}");
    }
}

#[tokio::test]
async fn an_id_of_the_last_moment_of_2099_refuses_appends_clearly_and_is_read() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = fresh(&server).await;
    add(&server, "4102444799999-2097151", &["event", "a"]);
    let error = append(&log, "b").await.unwrap_err();
    assert_eq!(error.kind(), flywheel_log::LogErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("2099"), "{error}");
    assert_eq!(values(&all(&log, 100).await), ["a"]);
}

#[tokio::test]
async fn entries_with_new_ids_outlive_a_kill_and_a_rewrite_of_the_servers_file() {
    if !support::is_there() {
        return;
    }
    for preamble in [&["--aof-use-rdb-preamble", "no"][..], &["--aof-use-rdb-preamble", "yes"]] {
        let mut server = Server::start_with("always", preamble);
        let log = fresh(&server).await;
        append(&log, "a").await.unwrap();
        add(&server, "18446744073709551615-18446744073709551615", &["event", "b"]);
        append(&log, "c").await.unwrap();
        let before = all(&log, 100).await;
        assert_eq!(values(&before), ["a", "b", "c"]);
        server.kill();
        server.run();
        let log = fresh(&server).await;
        assert_eq!(all(&log, 100).await, before);
        let _: String = server.ask("BGREWRITEAOF");
        let done = "aof_rewrite_in_progress:0";
        let scheduled = "aof_rewrite_scheduled:0";
        loop {
            let info: String = server.ask("INFO persistence");
            if info.contains(done) && info.contains(scheduled) {
                assert!(info.contains("aof_last_bgrewrite_status:ok"));
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        server.kill();
        server.run();
        let log = fresh(&server).await;
        append(&log, "d").await.unwrap();
        let after = all(&log, 100).await;
        assert_eq!(after[..3], before);
        assert_eq!(values(&after), ["a", "b", "c", "d"]);
    }
}

#[tokio::test]
async fn records_that_are_suddenly_large_are_all_read_and_in_their_order() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("");
    let log = fresh(&server).await;
    let mut connection = server.connection();
    let mut sizes = vec![200; 3000];
    sizes.extend([900_000; 40]);
    sizes.extend([6 << 20, 10, 7 << 20]);
    for (n, size) in sizes.iter().enumerate() {
        let event = format!("{n} {}", "x".repeat(*size));
        let mut command = redis::cmd("XADD");
        command.arg("flywheel:{fw.tank.events:0}").arg("*").arg("event").arg(event);
        let _: String = command.query(&mut connection).unwrap();
    }
    // The first read learns that records are small, which those behind them are not.
    let limit = ReadLimit { max_bytes: 1 << 20, ..ReadLimit::default() };
    let (mut position, mut n) = (Position::Start, 0);
    while n < sizes.len() {
        let piece = log.read(&lane(), position, limit).await.unwrap();
        let bytes: usize = piece.iter().map(|record| record.value.len()).sum();
        assert!(bytes <= limit.max_bytes || piece.len() == 1, "{} records, {bytes} bytes", piece.len());
        for record in &piece {
            assert!(record.value.starts_with(format!("{n} ").as_bytes()) && record.value.len() >= sizes[n]);
            n += 1;
        }
        position = Position::After(piece.last().expect("there is more").offset);
    }
}
