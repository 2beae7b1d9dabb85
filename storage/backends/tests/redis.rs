//! Tables and the log on a real Redis: which log is whose.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_backends::{BackendUrls, Backends, CatalogConfig, StoreConfig};
use flywheel_log::{LogErrorKind, Record, Reserve, ReserveLimits, Space, Topic};

struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// `None`, and a word, where there is no `redis-server` and nobody requires it.
fn server() -> Option<Server> {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "redis"));
        assert!(!required, "FLYWHEEL_REQUIRE names redis and `redis-server` is not installed");
        eprintln!("SKIPPED: `redis-server` is not installed (apt-get install redis-server)");
        return None;
    }
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
        command.arg(dir.path()).stdout(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut server = Server { child: command.spawn().unwrap(), port, _dir: dir };
        let began = Instant::now();
        // Somebody else may have taken the port meanwhile; then ours ends.
        while server.child.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "redis-server on port {port} does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("no port for redis-server");
}

fn urls(data: &Path, log: String) -> BackendUrls {
    BackendUrls { log, data: data.to_owned(), store: StoreConfig::default(), catalog: CatalogConfig::default() }
}

#[tokio::test]
async fn tables_on_one_redis_refuse_another_an_emptied_one_and_an_embedded_log() {
    let (Some(one), Some(two)) = (server(), server()) else { return };
    let (dir, at) = (tempfile::tempdir().unwrap(), |server: &Server| format!("redis://127.0.0.1:{}/0", server.port));
    let own = urls(dir.path(), at(&one));
    Backends::open(&own).await.unwrap();
    Backends::open(&own).await.unwrap();
    own.open_shared().await.unwrap();
    Backends::connect(&own).await.unwrap();
    let others = [at(&two), format!("{}?prefix=other", at(&one)), format!("redis://127.0.0.1:{}/1", one.port)];
    for other in others.into_iter().chain(["embedded:".to_owned()]) {
        let other = urls(dir.path(), other);
        let mut refused = vec![Backends::open(&other).await.map(drop)];
        if other.has_servers() {
            refused.push(other.open_shared().await.map(drop));
            refused.push(Backends::connect(&other).await.map(drop));
        }
        for refused in refused {
            let said = format!("{:#}", refused.unwrap_err());
            for word in ["another log", "stream.url", "flywheel.json", &format!("redis://127.0.0.1:{}/0", one.port)] {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
    }
    Backends::open(&own).await.unwrap();
    // Its records are gone, and with them what the positions meant.
    let emptied = Command::new("redis-cli").args(["-p", &one.port.to_string(), "FLUSHALL"]).output().unwrap();
    assert!(emptied.status.success());
    assert!(format!("{:#}", Backends::open(&own).await.unwrap_err()).contains("another log"));
}

#[tokio::test]
async fn on_a_server_signs_of_life_are_appended_while_the_disk_of_the_tables_is_nearly_full() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let full = Reserve::new(ReserveLimits { share: 0.5, bytes: 0 });
    let full = Arc::new(full.watching("data", || Ok(Space { free: 0, total: 100 })));
    let own = urls(dir.path(), format!("redis://127.0.0.1:{}/0", server.port));
    let (backends, _) = Backends::open_within(&own, Some(Arc::clone(&full))).await.unwrap();
    let topic = Topic::new("fw.owners");
    backends.log.create_topic(&topic, 1).await.unwrap();
    let record = || vec![Record::new("land", "I hold 0")];
    backends.log.append(&topic.partition(0), record()).await.unwrap();
    let refused = backends.log_for_events(Some(&full)).append(&topic.partition(0), record()).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::Full);
}
