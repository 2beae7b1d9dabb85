//! A real Kafka broker (KRaft, one node, loopback) for one test binary; its jars come through Maven once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flywheel_log_kafka::KafkaLog;
use tempfile::TempDir;

/// What a broker has beside its listener `PLAINTEXT`.
#[derive(Debug, Default)]
pub struct Doors {
    /// Names of listeners, and what each speaks (`SASL_SSL`).
    pub listeners: Vec<(&'static str, &'static str)>,
    /// Lines of `server.properties`.
    pub properties: String,
    /// Users with salted passwords, as `kafka-storage format --add-scram` takes them.
    pub users: Vec<String>,
}

/// Started with its own folder; killed when dropped.
pub struct Broker {
    dir: TempDir,
    /// Of each listener.
    ports: BTreeMap<&'static str, u16>,
    child: Option<Child>,
}

/// The folder with the broker's jars; none, said aloud, where `FLYWHEEL_REQUIRE` does not name `kafka`: a broker takes
/// a minute and 400 MB, and its jars come over the network. Fails where it is required and cannot be had.
fn jars() -> Option<PathBuf> {
    let required = std::env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
    if !required.split(',').any(|name| name == "kafka") {
        eprintln!("SKIPPED: no Kafka broker; run with FLYWHEEL_REQUIRE=kafka, a Java 17 runtime and Maven");
        return None;
    }
    for program in ["java", "mvn"] {
        let found = Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            found.is_ok(),
            "FLYWHEEL_REQUIRE has kafka, and there is no `{program}`: install a Java 17 runtime and Maven"
        );
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broker");
    // Beside the build, so that `cargo clean` is what fetches again.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka-4.1.1");
    fs::create_dir_all(&cache).unwrap();
    // One process fetches; others wait.
    let lock = File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    let (libs, complete) = (cache.join("libs"), cache.join("complete"));
    if !complete.exists() {
        eprintln!("fetching Kafka's jars (54 MB, once)");
        let done = Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(here.join("pom.xml"))
            .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", libs.display()))
            .status()
            .unwrap();
        assert!(
            done.success(),
            "Maven could not fetch Kafka's jars; `mvn -f {}` says why",
            here.join("pom.xml").display()
        );
        File::create(complete).unwrap();
    }
    Some(libs)
}

fn java(libs: &Path) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    java.arg(format!("{}/*:{}/tests/broker", libs.display(), env!("CARGO_MANIFEST_DIR")));
    java
}

fn free_ports(n: usize) -> Vec<u16> {
    let held: Vec<_> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Broker {
    /// `None` where there is no Java or Maven, which is said aloud.
    pub async fn start(doors: &Doors) -> Option<Self> {
        let libs = jars()?;
        let dir = tempfile::tempdir().unwrap();
        let all = [&[("CONTROLLER", "PLAINTEXT"), ("PLAINTEXT", "PLAINTEXT")][..], &doors.listeners].concat();
        let ports: BTreeMap<_, _> = all.iter().map(|(name, _)| *name).zip(free_ports(all.len())).collect();
        let (controller, port) = (ports["CONTROLLER"], ports["PLAINTEXT"]);
        let places: Vec<_> =
            doors.listeners.iter().map(|(name, _)| format!(",{name}://127.0.0.1:{}", ports[name])).collect();
        let places = places.concat();
        let protocols: Vec<_> = all.iter().map(|(name, protocol)| format!("{name}:{protocol}")).collect();
        let properties = dir.path().join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{port}{places}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{places}\n\
             listener.security.protocol.map={}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
             log.dirs={}\nnum.partitions=4\nauto.create.topics.enable=true\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n{}",
            protocols.join(","),
            dir.path().join("data").display(),
            doors.properties,
        );
        fs::write(&properties, text).unwrap();
        let formatted = java(&libs)
            .args(["kafka.tools.StorageTool", "format", "-t", "Zmx5d2hlZWwtdGVzdHMAAA", "-c"])
            .arg(&properties)
            .args(doors.users.iter().flat_map(|user| ["--add-scram", user]))
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let mut broker = Self { dir, ports, child: None };
        broker.launch().await;
        Some(broker)
    }

    /// Starts the process on the folder that is there, and waits until it answers a client.
    pub async fn launch(&mut self) {
        let libs = jars().expect("there was a broker before");
        let log = File::options().create(true).append(true).open(self.dir.path().join("broker.log")).unwrap();
        let child = java(&libs)
            .arg("kafka.Kafka")
            .arg(self.dir.path().join("server.properties"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while let Err(error) = KafkaLog::connect(&self.url("timeout=2s")).await {
            assert!(began.elapsed() < Duration::from_secs(120), "no broker: {error}\n{}", self.said());
            let child = self.child.as_mut().expect("just started");
            assert!(child.try_wait().unwrap().is_none(), "the broker ended\n{}", self.said());
        }
        eprintln!("a Kafka broker answers after {:?}", began.elapsed());
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("broker.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self, options: &str) -> String {
        self.url_of("PLAINTEXT", options)
    }

    pub fn url_of(&self, listener: &str, options: &str) -> String {
        format!("kafka://127.0.0.1:{}?{options}", self.ports[listener])
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
