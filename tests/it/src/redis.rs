//! A Redis server of a scenario's own, and just enough of its protocol to append to streams as a stranger would.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server on a loopback port, killed with the scenario.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    folder: PathBuf,
    fsync: &'static str,
}

impl Redis {
    /// Starts one that keeps its file in `folder` and syncs it once a second; `None` where there is no `redis-server` and
    /// may be none.
    ///
    /// # Panics
    /// If it does not start, or is not installed and `FLYWHEEL_REQUIRE` lists `redis`.
    pub fn start(folder: &Path) -> Option<Self> {
        Self::syncing(folder, "everysec")
    }

    /// As [`Redis::start`], with its setting `appendfsync`.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub fn syncing(folder: &Path, fsync: &'static str) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(!crate::requires("redis"), "`redis-server` is not installed");
            eprintln!("SKIPPED: `redis-server` is not installed (apt-get install redis-server)");
            return None;
        }
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
            let mut redis = Self { child: spawn(folder, port, fsync), port, folder: folder.to_owned(), fsync };
            if redis.answers() {
                return Some(redis);
            }
            // Somebody else took the port meanwhile.
        }
        panic!("no port for redis-server");
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, after [`Redis::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        for _ in 0..20 {
            self.child = spawn(&self.folder, self.port, self.fsync);
            if self.answers() {
                return;
            }
            // Somebody has the port for a moment.
            std::thread::sleep(Duration::from_millis(500));
        }
        panic!("port {} is not free any more for redis-server", self.port);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A connection that appends.
    ///
    /// # Panics
    /// If the server does not take it.
    pub fn connect(&self) -> Appender {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has timeouts");
        Appender { reader: BufReader::new(stream.try_clone().expect("a socket has copies")), stream }
    }

    /// Tells the server something, such as `CONFIG SET appendfsync always`.
    ///
    /// # Panics
    /// If it refuses.
    pub fn command(&self, words: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has timeouts");
        stream.write_all(format!("{words}\r\n").as_bytes()).expect("the server takes commands");
        let mut said = String::new();
        BufReader::new(stream).read_line(&mut said).expect("the server answers");
        assert!(said.starts_with('+'), "the server says {said} to {words}");
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().expect("the child is ours").is_none() {
            if self.has_loaded() {
                // Ours, or that of a server which had the port before: then ours ends.
                std::thread::sleep(Duration::from_millis(100));
                return self.child.try_wait().expect("the child is ours").is_none();
            }
            assert!(Instant::now() < until, "redis-server on port {} does not answer", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Whether it takes commands: a server that starts again reads its file first.
    fn has_loaded(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut said = String::new();
        let asked = stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .and_then(|()| stream.write_all(b"PING\r\n"))
            .and_then(|()| BufReader::new(stream).read_line(&mut said));
        asked.is_ok() && said.starts_with("+PONG")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, port: u16, fsync: &str) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", fsync]);
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("redis-server starts")
}

/// Appends entries to streams.
#[derive(Debug)]
pub struct Appender {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Appender {
    /// `XADD stream * event value` for each, in one go; returns once all are acknowledged.
    ///
    /// # Panics
    /// If the server refuses one.
    pub fn append(&mut self, entries: &[(String, String)]) {
        let mut out = String::new();
        for (stream, value) in entries {
            out.push_str("*5\r\n");
            for word in ["XADD", stream.as_str(), "*", "event", value.as_str()] {
                out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
        }
        self.stream.write_all(out.as_bytes()).expect("the server takes commands");
        for _ in entries {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("the server answers");
            assert!(line.starts_with('$'), "the server says {line}");
            self.reader.read_line(&mut line).expect("an id follows");
        }
    }
}
