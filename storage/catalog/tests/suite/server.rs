//! A real PostgreSQL for the tests of this binary, on a loopback port; it ends when they do, however they end.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{Connection, PgConnection};

pub const PASSWORD: &str = "s3cret";
const READY: &str = "ready to accept connections";

pub struct Postgres {
    port: u16,
    databases: AtomicU32,
    /// Its standard input is open as long as this process lives.
    _guard: Child,
}

/// The newest one installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter(|path| number(path).is_some()).max_by_key(|path| number(path))?.join("bin");
    newest.join("initdb").is_file().then_some(newest)
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    is_root.then(|| ids("postgres").or_else(|| ids("nobody")).expect("every system has a nobody"))
}

impl Postgres {
    /// `None` where it is not installed.
    ///
    /// # Panics
    /// If it is not, and `FLYWHEEL_REQUIRE` lists `postgres`.
    pub fn running() -> Option<&'static Self> {
        static RUNNING: OnceLock<Option<Postgres>> = OnceLock::new();
        let start = |programs: PathBuf| {
            // Another program may take the port first; then the next one is tried.
            (0..5).find_map(|_| Self::start(&programs)).expect("PostgreSQL starts")
        };
        RUNNING.get_or_init(|| programs().map(start)).as_ref().or_else(|| {
            let required = env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
            let how = "PostgreSQL is not installed; `apt-get install postgresql`";
            assert!(!required.split(',').any(|word| word.trim() == "postgres"), "{how}");
            eprintln!("SKIPPED: {how}");
            None
        })
    }

    fn start(programs: &Path) -> Option<Self> {
        // The guard below removes it.
        let folder = tempfile::Builder::new().prefix("flywheel-postgres-").tempdir().unwrap().keep();
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(&folder).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = folder.join("data");
        fs::write(folder.join("password"), PASSWORD).unwrap();
        let made = as_user(&programs.join("initdb"))
            .args(["--username=flywheel", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"])
            .arg("--pwfile")
            .arg(folder.join("password"))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Fast shutdown once nobody holds the other end of standard input.
        let script = r#""$@" & server=$!; cat >/dev/null; kill -INT $server; wait $server; cd /; rm -rf "$FOLDER""#;
        let mut guard = as_user(Path::new("/bin/sh"))
            .env("FOLDER", &folder)
            .args(["-c", script, "sh"])
            .arg(programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=200"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(guard.stderr.take().expect("it is piped"));
        let mut line = String::new();
        loop {
            line.clear();
            let n = said.read_line(&mut line).unwrap();
            if line.contains(READY) {
                break;
            }
            if n == 0 || line.contains("FATAL") {
                eprintln!("PostgreSQL did not start: {line}");
                drop(guard.stdin.take());
                let _ended = guard.wait();
                return None;
            }
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Some(Self { port, databases: AtomicU32::new(0), _guard: guard })
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://flywheel:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// The address of an empty database.
    pub async fn new_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let statement = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }
}
