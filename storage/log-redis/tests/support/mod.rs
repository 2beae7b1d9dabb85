//! Real servers on loopback ports, killed with the test.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod proxy;

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0?timeout=5s")
}

pub struct Server {
    pub dir: TempDir,
    pub port: u16,
    child: Option<Child>,
    /// Empty: no append-only file.
    fsync: &'static str,
    settings: &'static [&'static str],
}

/// Whether `redis-server` is there; fails where the tests must not skip.
pub fn is_there() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "redis"));
    assert!(found || !required, "FLYWHEEL_REQUIRE names redis and `redis-server` is not installed");
    if !found {
        eprintln!("SKIPPED: `redis-server` is not installed (apt-get install redis-server)");
    }
    found
}

impl Server {
    pub fn start(fsync: &'static str) -> Self {
        Self::start_with(fsync, &[])
    }

    /// With further settings of the server.
    pub fn start_with(fsync: &'static str, settings: &'static [&'static str]) -> Self {
        let mut dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Self { dir, port, child: None, fsync, settings };
            if server.try_run() {
                return server;
            }
            // Somebody else took the port meanwhile.
            dir = std::mem::replace(&mut server.dir, tempfile::tempdir().unwrap());
        }
        panic!("no port for redis-server");
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The connection of a stranger.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/0", self.port)).unwrap().get_connection().unwrap()
    }

    pub fn ask<T: redis::FromRedisValue>(&self, line: &str) -> T {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.connection()).unwrap()
    }

    pub fn run(&mut self) {
        assert!(self.try_run(), "redis-server on port {} ended", self.port);
    }

    fn try_run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly"]);
        match self.fsync {
            "" => command.arg("no"),
            fsync => command.args(["yes", "--appendfsync", fsync]),
        };
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.dir.path()).args(self.settings);
        command.stdout(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let log_in = self.settings.iter().position(|word| *word == "--requirepass").map(|at| self.settings[at + 1]);
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            let answers = || -> redis::RedisResult<bool> {
                let user = log_in.map(|password| format!(":{password}@")).unwrap_or_default();
                let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}/0", self.port))?;
                let mut connection = client.get_connection()?;
                redis::cmd("PING").query::<String>(&mut connection)?;
                let of: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("dir").query(&mut connection)?;
                Ok(of.get(1).is_some_and(|dir| std::path::Path::new(dir) == self.dir.path().canonicalize().unwrap()))
            };
            if answers().unwrap_or(false) {
                self.child = Some(child);
                return true;
            }
            assert!(Instant::now() < until, "redis-server on port {} does not answer", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
