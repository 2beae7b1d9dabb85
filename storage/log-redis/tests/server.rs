//! What servers and networks do to the log: restarts, failovers, lost answers, wrong passwords, silence.

mod support;

use std::{sync::Arc, time::Duration};

use flywheel_log::{
    Durability, EventLog, GroupMember, LogErrorKind, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition,
};
use flywheel_log_redis::RedisLog;
use support::{Server, proxy::Proxy};

fn lane(partition: u32) -> TopicPartition {
    Topic::new("fw.tank.events").partition(partition)
}

async fn connect(url: &str) -> Arc<RedisLog> {
    let log = RedisLog::connect(url).await.unwrap();
    log.create_topic(&lane(0).topic, 4).await.unwrap();
    log
}

fn one(value: &str) -> Vec<Record> {
    vec![Record::new("k", value.to_owned())]
}

async fn all(log: &RedisLog, of: &TopicPartition) -> Vec<StoredRecord> {
    let (mut position, mut all) = (Position::Start, Vec::<StoredRecord>::new());
    loop {
        let piece = log.read(of, position, ReadLimit::default()).await.unwrap();
        let Some(last) = piece.last() else { return all };
        position = Position::After(last.offset);
        all.extend(piece);
    }
}

fn values(records: &[StoredRecord]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.value).unwrap()).collect()
}

/// Calls until the log is there again.
async fn eventually<T>(mut act: impl AsyncFnMut() -> Result<T, flywheel_log::LogError>) -> T {
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match act().await {
            Ok(done) => return done,
            Err(error) => {
                assert!(error.kind().is_retryable() && tokio::time::Instant::now() < until, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn scripts_that_a_server_forgot_are_sent_again() {
    if !support::is_there() {
        return;
    }
    let mut server = Server::start("always");
    let log = connect(&server.url()).await;
    log.append(&lane(0), one("a")).await.unwrap();
    let _: String = server.ask("SCRIPT FLUSH");
    log.append(&lane(0), one("b")).await.unwrap();
    server.kill();
    let error = log.append(&lane(0), one("nowhere")).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    let error = log.append(&lane(0), one("nowhere")).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("start the server") && said.contains(&server.port.to_string()), "{said}");
    server.run();
    log.append(&lane(0), one("c")).await.unwrap();
    assert_eq!(values(&all(&log, &lane(0)).await), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_the_server_lose_nothing_acknowledged_and_keep_the_order() {
    if !support::is_there() {
        return;
    }
    let mut server = Server::start("always");
    let log = connect(&server.url()).await;
    let mut acknowledged = Vec::new();
    for round in 0..5_u32 {
        let (noted, mut notes) = tokio::sync::mpsc::unbounded_channel();
        let writer = {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for n in 0_u32.. {
                    let batch = (0..3).map(|i| Record::new("k", format!("{round:03}-{n:06}-{i}"))).collect();
                    match log.append(&lane(0), batch).await {
                        Ok(last) => noted.send((last, format!("{round:03}-{n:06}-2"))).unwrap(),
                        Err(error) => return error,
                    }
                }
                unreachable!("the server is killed")
            })
        };
        for _ in 0..50 + 30 * round {
            acknowledged.push(notes.recv().await.unwrap());
        }
        server.kill();
        assert_eq!(writer.await.unwrap().kind(), LogErrorKind::Unavailable);
        while let Some(noted) = notes.recv().await {
            acknowledged.push(noted);
        }
        server.run();
        let there = all(&log, &lane(0)).await;
        // What was in flight at a kill is there whole or not at all.
        assert_eq!(there.len() % 3, 0);
        assert!(values(&there).is_sorted());
        let mut rest = there.iter();
        for (last, value) in &acknowledged {
            assert!(rest.any(|r| r.offset == *last && r.value == value.as_bytes()), "{value} at {last}");
        }
    }
}

#[tokio::test]
async fn an_append_without_an_answer_says_that_its_records_may_be_there() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let proxy = Proxy::start(server.port);
    let log = connect(&support::url(proxy.port)).await;
    log.append(&lane(0), one("a")).await.unwrap();
    proxy.lose_the_next_answer();
    let error = log.append(&lane(0), one("b")).await.unwrap_err();
    assert!(proxy.answer_was_lost());
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    assert!(error.to_string().contains("may be there"), "{error}");
    // The log itself has not tried again: it is there once.
    assert_eq!(values(&all(&log, &lane(0)).await), ["a", "b"]);
    // Nothing was sent where there was no connection, and it says so.
    proxy.close();
    let _dropped = log.append(&lane(0), one("c")).await.unwrap_err();
    let error = log.append(&lane(0), one("c")).await.unwrap_err();
    assert!(!error.to_string().contains("may be there"), "{error}");
    proxy.reopen();
    log.append(&lane(0), one("d")).await.unwrap();
    assert_eq!(values(&all(&log, &lane(0)).await), ["a", "b", "d"]);
}

#[tokio::test]
async fn after_a_failover_the_next_call_finds_the_new_master() {
    if !support::is_there() {
        return;
    }
    let (old, new) = (Server::start("always"), Server::start("everysec"));
    let proxy = Proxy::start(old.port);
    let log = connect(&support::url(proxy.port)).await;
    log.append(&lane(0), one("a")).await.unwrap();
    assert_eq!(log.durability(), Durability::Fsynced);
    let _: String = new.ask(&format!("REPLICAOF 127.0.0.1 {}", old.port));
    while all_of(&new) != 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The old master is a replica from now on; its connections stay open.
    let _: String = new.ask("REPLICAOF NO ONE");
    let _: String = old.ask(&format!("REPLICAOF 127.0.0.1 {}", new.port));
    proxy.point_to(new.port);
    let error = log.append(&lane(0), one("refused")).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    assert!(error.to_string().contains("replica"), "{error}");
    eventually(async || log.append(&lane(0), one("b")).await).await;
    assert_eq!(values(&all(&log, &lane(0)).await), ["a", "b"]);
    assert_eq!(log.durability(), Durability::Memory, "the new master syncs once a second");
}

fn all_of(server: &Server) -> u64 {
    server.ask("XLEN flywheel:{fw.tank.events:0}")
}

#[tokio::test]
async fn a_wrong_password_names_the_setting_and_is_not_repeated() {
    if !support::is_there() {
        return;
    }
    let server = Server::start_with("always", &["--requirepass", "right"]);
    let at = format!("127.0.0.1:{}/0", server.port);
    for url in [format!("redis://{at}"), format!("redis://:wr0ng@{at}"), format!("redis://user:wr0ng@{at}")] {
        let error = RedisLog::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::InvalidData, "{error}");
        let said = format!("{error} {error:?}");
        assert!(said.contains("password.env") && !said.contains("wr0ng"), "{said}");
    }
    let file = server.dir.path().join("password");
    std::fs::write(&file, "right\n").unwrap();
    let log = connect(&format!("redis://{at}?password.file={}", file.display())).await;
    log.append(&lane(0), one("a")).await.unwrap();
    assert!(!format!("{log:?}").contains("right"));
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = RedisLog::connect(&format!("redis://127.0.0.1:{port}/0?timeout=200ms")).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    assert!(error.to_string().contains("`timeout=`"), "{error}");
}

#[tokio::test]
async fn what_survives_is_what_the_servers_settings_say() {
    if !support::is_there() {
        return;
    }
    for (fsync, settings, durability, named) in [
        ("always", &[][..], Durability::Fsynced, "fsynced: appendonly yes, appendfsync always"),
        ("everysec", &[], Durability::Memory, "memory: appendonly yes, appendfsync everysec"),
        ("", &[], Durability::Memory, "memory: appendonly no"),
        ("always", &["--no-appendfsync-on-rewrite", "yes"], Durability::Memory, "no-appendfsync-on-rewrite yes"),
    ] {
        let server = Server::start_with(fsync, settings);
        let log = connect(&server.url()).await;
        assert_eq!(log.durability(), durability, "{fsync} {settings:?}");
        assert!(log.persistence().to_string().contains(named), "{}", log.persistence());
    }
}

#[tokio::test]
async fn a_server_that_was_busy_when_it_was_connected_to_is_asked_again_what_survives() {
    if !support::is_there() {
        return;
    }
    let server = Server::start_with("always", &["--lua-time-limit", "50"]);
    let log = connect(&server.url()).await;
    assert_eq!(log.durability(), Durability::Fsynced);
    let _n_killed: i64 = server.ask("CLIENT KILL TYPE normal SKIPME yes");
    let error = log.append(&lane(0), one("a")).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Unavailable, "its connection is gone");
    let mut busy = server.connection();
    let script = std::thread::spawn(move || {
        let _killed: redis::RedisResult<()> = redis::cmd("EVAL").arg("while true do end").arg(0).query(&mut busy);
    });
    // Until the server says so itself.
    let until = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mut stranger = server.connection();
        let answer: redis::RedisResult<String> = redis::cmd("GET").arg("x").query(&mut stranger);
        if answer.is_err_and(|error| error.code() == Some("BUSY")) {
            break;
        }
        assert!(std::time::Instant::now() < until, "the script does not run");
    }
    let error = log.append(&lane(0), one("b")).await.unwrap_err();
    assert!(error.kind() == LogErrorKind::Unavailable && error.to_string().contains("busy"), "{error}");
    let _: String = server.ask("SCRIPT KILL");
    script.join().unwrap();
    eventually(async || log.append(&lane(0), one("c")).await).await;
    assert_eq!(log.durability(), Durability::Fsynced, "{}", log.persistence());
}

#[tokio::test]
async fn a_log_keeps_its_name_and_an_emptied_server_or_another_prefix_has_another() {
    if !support::is_there() {
        return;
    }
    let mut server = Server::start("always");
    let log = connect(&server.url()).await;
    let again = connect(&server.url()).await;
    let (id, at_once) = tokio::join!(log.identity(), again.identity());
    let id = id.unwrap();
    assert_eq!(at_once.unwrap(), id, "of two who ask at once, both get the same");
    let other = RedisLog::connect(&format!("{}&prefix=other", server.url())).await.unwrap();
    assert_ne!(other.identity().await.unwrap(), id);
    assert!(other.place().ends_with("?prefix=other"), "{}", other.place());
    server.kill();
    server.run();
    assert_eq!(eventually(async || log.identity().await).await, id);
    let _: String = server.ask("FLUSHALL");
    assert_ne!(log.identity().await.unwrap(), id, "its records are gone, and so is its name");
}

#[tokio::test]
async fn a_server_that_hides_its_settings_promises_nothing() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let _: String = server.ask("ACL SETUSER plain on >word ~* +@all -config");
    let log = connect(&format!("redis://plain:word@127.0.0.1:{}/0", server.port)).await;
    assert_eq!(log.durability(), Durability::Memory);
    log.append(&lane(0), one("a")).await.unwrap();
    assert!(log.persistence().to_string().contains("does not tell"));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_while_it_was_idle_costs_no_read() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = connect(&server.url()).await;
    log.append(&lane(0), one("0")).await.unwrap();
    let limit = ReadLimit::default();
    for _ in 0..3 {
        assert_eq!(values(&log.read(&lane(0), Position::Start, limit).await.unwrap()), ["0"]);
        // That of the reads asked for a piece last.
        let clients: String = server.ask("CLIENT LIST");
        let reading: Vec<_> = clients.lines().filter(|line| line.contains("cmd=exec")).collect();
        assert_eq!(reading.len(), 1, "{clients}");
        let id = reading[0].split(' ').find_map(|word| word.strip_prefix("id=")).unwrap();
        assert_eq!(server.ask::<u64>(&format!("CLIENT KILL ID {id}")), 1);
    }
}

#[tokio::test]
async fn reads_log_in_and_choose_the_database_as_all_else_does() {
    if !support::is_there() {
        return;
    }
    let server = Server::start_with("always", &["--requirepass", "word"]);
    for (user, database) in [("", 3), ("default", 4)] {
        let log = connect(&format!("redis://{user}:word@127.0.0.1:{}/{database}?timeout=5s", server.port)).await;
        log.append(&lane(0), one("here")).await.unwrap();
        let found = log.read(&lane(0), Position::Start, ReadLimit::default()).await.unwrap();
        assert_eq!(values(&found), ["here"], "and not what lies in the other database");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_readers_wait_the_server_has_little_to_do() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let log = connect(&server.url()).await;
    let long = ReadLimit::waiting(Duration::from_secs(30));
    let readers: Vec<_> = (0..60)
        .map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.read(&lane(n % 3), Position::Start, long).await.unwrap() })
        })
        .collect();
    let clients = |server: &Server| server.ask::<String>("CLIENT LIST").lines().count();
    while !server.ask::<String>("CLIENT LIST").contains("cmd=xread") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One connection for all calls, four for what is read, one for all that wait, and the one that asks.
    assert!(clients(&server) <= 7, "{}", server.ask::<String>("CLIENT LIST"));
    let _: String = server.ask("CONFIG RESETSTAT");
    let since = std::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats: String = server.ask("INFO stats");
    let n = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
    // Polling every 10 ms would be 18,000 a second.
    let a_second = n.trim().parse::<f64>().unwrap() / since.elapsed().as_secs_f64().max(1.0);
    assert!(a_second < 1500.0, "{a_second} commands a second");
    for partition in 0..3 {
        log.append(&lane(partition), one(&format!("{partition}"))).await.unwrap();
    }
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(values(&reader.await.unwrap()), [format!("{}", n % 3)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_wait_outlive_a_restart_of_the_server() {
    if !support::is_there() {
        return;
    }
    let mut server = Server::start("always");
    let log = connect(&server.url()).await;
    let reader = {
        let log = Arc::clone(&log);
        let long = ReadLimit::waiting(Duration::from_secs(60));
        tokio::spawn(async move {
            loop {
                match log.read(&lane(0), Position::Start, long).await {
                    Ok(found) => return found,
                    Err(error) => assert!(error.kind().is_retryable(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    while !server.ask::<String>("CLIENT LIST").contains("cmd=xread") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    server.run();
    let other = connect(&server.url()).await;
    other.append(&lane(0), one("after")).await.unwrap();
    assert_eq!(values(&reader.await.unwrap()), ["after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_lease_is_renewed_while_its_owner_works() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let url = format!("{}&lease=6s", server.url());
    let log = connect(&url).await;
    log.append(&lane(0), one("a")).await.unwrap();
    let mut slow = log.join(&lane(0).topic, "g", "a").await.unwrap();
    let given = slow.poll(ReadLimit::waiting(Duration::from_secs(30))).await.unwrap();
    // Longer than a lease, without a call.
    tokio::time::sleep(Duration::from_secs(14)).await;
    let other = log.join(&lane(0).topic, "g", "b").await.unwrap();
    assert_eq!(other.assigned().await.unwrap(), [lane(1), lane(3)]);
    slow.commit(&given[0].0, given[0].1.offset).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_member_held_is_claimed_and_the_zombie_commits_nothing() {
    if !support::is_there() {
        return;
    }
    let server = Server::start("always");
    let proxy = Proxy::start(server.port);
    let far = connect(&format!("{}&lease=1s", support::url(proxy.port))).await;
    let near = connect(&format!("{}&lease=1s", server.url())).await;
    for partition in 0..4 {
        near.append(&lane(partition), one("a")).await.unwrap();
        near.append(&lane(partition), one("b")).await.unwrap();
    }
    let mut zombie = far.join(&lane(0).topic, "g", "a").await.unwrap();
    let mut given = Vec::new();
    while given.len() < 8 {
        given.extend(zombie.poll(ReadLimit::waiting(Duration::from_secs(30))).await.unwrap());
    }
    let of = |lane: &TopicPartition, n: usize| given.iter().filter(|(of, _)| of == lane).nth(n).unwrap().1.offset;
    zombie.commit(&lane(0), of(&lane(0), 0)).await.unwrap();
    proxy.close();
    let mut heir = near.join(&lane(0).topic, "g", "b").await.unwrap();
    let mut claimed = Vec::new();
    while claimed.len() < 7 {
        claimed.extend(heir.poll(ReadLimit::waiting(Duration::from_secs(30))).await.unwrap());
    }
    assert_eq!(claimed.iter().filter(|(of, _)| *of == lane(0)).count(), 1, "one of two was committed");
    for partition in 0..4 {
        heir.commit(&lane(partition), of(&lane(partition), 1)).await.unwrap();
    }
    proxy.reopen();
    // Back among the living, it may have partitions again, but nothing that it was given before is its to commit.
    let refused = eventually(async || {
        let mut refused = 0;
        for partition in 0..4 {
            match zombie.commit(&lane(partition), of(&lane(partition), 0)).await {
                Err(error) if error.kind() == LogErrorKind::Fenced => refused += 1,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(refused)
    });
    assert_eq!(refused.await, 4);
    drop((zombie, heir));
    let mut last: Box<dyn GroupMember> = near.join(&lane(0).topic, "g", "c").await.unwrap();
    while last.assigned().await.unwrap().len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(last.poll(ReadLimit::default()).await.unwrap().is_empty(), "all was committed by the heir");
}
