//! The log itself and its socket answer to the same suite.

use std::sync::{Arc, Mutex};

use flywheel_log::{
    EventLog,
    conformance::{DurableLogFixture, LogFixture},
};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog, RemoteLog, SOCKET};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Folders live as long as the test.
#[derive(Default)]
struct Embedded(Mutex<Vec<TempDir>>);

impl LogFixture for Embedded {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), EmbeddedConfig::default()).unwrap();
        self.0.lock().unwrap().push(dir);
        log
    }
}

impl DurableLogFixture for Embedded {
    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        drop(log);
        let dir = self.0.lock().unwrap().last().unwrap().path().to_owned();
        open_when_free(&dir).await
    }
}

/// The writer thread lets go of the file a moment after the log is dropped.
async fn open_when_free(dir: &std::path::Path) -> Arc<EmbeddedLog> {
    loop {
        match EmbeddedLog::open(dir, EmbeddedConfig::default()) {
            Ok(log) => return log,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

#[derive(Default)]
struct Remote(Embedded);

impl LogFixture for Remote {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), EmbeddedConfig { tail_bytes: 0, ..Default::default() }).unwrap();
        let socket = dir.path().join(SOCKET);
        tokio::spawn(log.serve(&socket, CancellationToken::new()).unwrap());
        self.0.0.lock().unwrap().push(dir);
        RemoteLog::connect(&socket).await.unwrap()
    }
}

mod embedded {
    flywheel_log::event_log_conformance!(super::Embedded::default());
    flywheel_log::durable_log_conformance!(super::Embedded::default());
}

/// Over the socket, and from the file instead of the tail in memory.
mod remote {
    flywheel_log::event_log_conformance!(super::Remote::default());
}

#[tokio::test]
async fn who_comes_second_is_told_who_holds_the_log_and_may_use_its_socket() {
    use flywheel_log::{LogErrorKind, Position, ReadLimit, Record, Topic};
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), EmbeddedConfig::default()).unwrap();
    let error = EmbeddedLog::open(dir.path(), EmbeddedConfig::default()).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Conflict);
    assert!(flywheel_log_embedded::open_or_connect(dir.path()).await.is_err(), "nobody answers yet");
    let cancel = CancellationToken::new();
    let server = tokio::spawn(log.serve(&dir.path().join(SOCKET), cancel.clone()).unwrap());
    let other = flywheel_log_embedded::open_or_connect(dir.path()).await.unwrap();
    let topic = Topic::new("t");
    other.create_topic(&topic, 1).await.unwrap();
    log.append(&topic.partition(0), vec![Record::new("k", "v")]).await.unwrap();
    assert_eq!(other.read(&topic.partition(0), Position::Start, ReadLimit::default()).await.unwrap().len(), 1);
    assert_eq!(other.durability(), log.durability());
    // The owner goes: calls fail as retryable; a new owner comes: they work again.
    cancel.cancel();
    server.await.unwrap();
    drop(log);
    let error = other.topics().await.unwrap_err();
    assert!(error.kind().is_retryable(), "{error}");
    let log = open_when_free(dir.path()).await;
    tokio::spawn(log.serve(&dir.path().join(SOCKET), CancellationToken::new()).unwrap());
    assert_eq!(other.topics().await.unwrap(), [(topic, 1)]);
}

#[tokio::test]
async fn while_the_disk_is_nearly_full_nobody_appends_from_any_process_and_everybody_reads_and_trims() {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use flywheel_log::{LogErrorKind, Position, ReadLimit, Record, Reserve, ReserveLimits, Space, Topic};
    let free = Arc::new(AtomicU64::new(1000));
    let seen = Arc::clone(&free);
    let reserve = Reserve::new(ReserveLimits { share: 0.05, bytes: 0 })
        .looking_every(Duration::ZERO)
        .watching("log", move || Ok(Space { free: seen.load(Ordering::SeqCst), total: 1000 }));
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { reserve: Some(Arc::new(reserve)), ..EmbeddedConfig::default() };
    let log = EmbeddedLog::open(dir.path(), config).unwrap();
    tokio::spawn(log.serve(&dir.path().join(SOCKET), CancellationToken::new()).unwrap());
    let other = flywheel_log_embedded::open_or_connect(dir.path()).await.unwrap();
    let topic = Topic::new("t");
    let lane = topic.partition(0);
    log.create_topic(&topic, 1).await.unwrap();
    let first = log.append(&lane, vec![Record::new("k", "a")]).await.unwrap();
    other.append(&lane, vec![Record::new("k", "b")]).await.unwrap();

    free.store(49, Ordering::SeqCst);
    for log in [&(Arc::clone(&log) as Arc<dyn EventLog>), &other] {
        let error = log.append(&lane, vec![Record::new("k", "c")]).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Full, "{error}");
        assert!(error.to_string().contains("nearly full"), "{error}");
        assert_eq!(log.read(&lane, Position::Start, ReadLimit::default()).await.unwrap().len(), 2);
    }
    other.trim(&lane, first).await.unwrap();

    free.store(57, Ordering::SeqCst);
    other.append(&lane, vec![Record::new("k", "d")]).await.unwrap();
    let left = log.read(&lane, Position::After(first), ReadLimit::default()).await.unwrap();
    assert_eq!(left.iter().map(|record| &record.value[..]).collect::<Vec<_>>(), [b"b", b"d"]);
}
