//! A Redis server of a scenario's own, and just enough of its protocol to append to streams as a stranger would.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server on a loopback port, killed with the scenario.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Starts one that keeps its file in `folder`; `None` where there is no `redis-server` and may be none.
    ///
    /// # Panics
    /// If it does not start, or is not installed and `FLYWHEEL_REQUIRE` lists `redis`.
    pub fn start(folder: &Path) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(!crate::requires("redis"), "`redis-server` is not installed");
            eprintln!("SKIPPED: `redis-server` is not installed (apt-get install redis-server)");
            return None;
        }
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
            command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder).stdout(Stdio::null());
            // SAFETY: prctl is async-signal-safe and touches no memory of ours.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    Ok(())
                });
            }
            let mut redis = Self { child: command.spawn().expect("redis-server starts"), port };
            if redis.answers() {
                return Some(redis);
            }
            // Somebody else took the port meanwhile.
        }
        panic!("no port for redis-server");
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

    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().expect("the child is ours").is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                // Ours, or that of a server which had the port before: then ours ends.
                std::thread::sleep(Duration::from_millis(100));
                return self.child.try_wait().expect("the child is ours").is_none();
            }
            assert!(Instant::now() < until, "redis-server on port {} does not answer", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
