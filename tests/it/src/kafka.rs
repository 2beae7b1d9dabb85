//! An Apache Kafka broker of a scenario's own, and Kafka's own console producer: a program that never heard of us.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Where the log's own tests keep what a broker needs.
const BROKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../storage/log-kafka/tests/broker");

/// One node (KRaft) on loopback, killed with the scenario.
#[derive(Debug)]
pub struct Kafka {
    child: Child,
    port: u16,
    folder: PathBuf,
    libs: PathBuf,
}

impl Kafka {
    /// Starts one that keeps its files in `folder`. `None`, said aloud, where `FLYWHEEL_REQUIRE` does not list `kafka`.
    ///
    /// # Panics
    /// If it is required and does not start, or `program` was built without Kafka.
    pub fn start(program: &Path, folder: &Path) -> Option<Self> {
        if !crate::requires("kafka") {
            eprintln!(
                "SKIPPED: no Kafka broker; run with FLYWHEEL_REQUIRE=kafka, a Java 17 runtime, Maven, and programs built \
                 with --features flywheel-cli/kafka"
            );
            return None;
        }
        assert!(
            speaks_kafka(program, folder),
            "FLYWHEEL_REQUIRE has kafka, and {} was built without it: add --features flywheel-cli/kafka",
            program.display()
        );
        let libs = jars();
        let [port, controller] = free_ports();
        let properties = folder.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
             log.dirs={}\nauto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n",
            folder.join("data").display()
        );
        fs::write(&properties, text).expect("the folder takes files");
        let formatted = java(&libs)
            .args(["kafka.tools.StorageTool", "format", "-t", "Zmx5d2hlZWwtdGVzdHMAAA", "-c"])
            .arg(&properties)
            .output()
            .expect("java starts");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let mut kafka = Self { child: spawn(&libs, folder), port, folder: folder.to_owned(), libs };
        kafka.wait();
        Some(kafka)
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, after [`Kafka::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.child = spawn(&self.libs, &self.folder);
        self.wait();
    }

    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    /// `kafka-console-producer`, which sends what it is given until the broker has it, however long that takes.
    ///
    /// # Panics
    /// If it does not start.
    pub fn producer(&self, topic: &str) -> Producer {
        let mut command = java(&self.libs);
        command.args(["org.apache.kafka.tools.ConsoleProducer", "--topic", topic]);
        command.args(["--bootstrap-server", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--property", "parse.key=true", "--property", "key.separator=\t"]);
        for property in ["acks=all", "enable.idempotence=true", "linger.ms=5", "retries=2147483647"] {
            command.args(["--producer-property", property]);
        }
        for property in ["delivery.timeout.ms=600000", "request.timeout.ms=5000", "max.block.ms=600000"] {
            command.args(["--producer-property", property]);
        }
        let said = File::create(self.folder.join("producer.log")).expect("the folder takes files");
        command.stdin(Stdio::piped()).stdout(said.try_clone().expect("a file has copies")).stderr(said);
        let mut child = dies_with_us(&mut command).spawn().expect("java starts");
        let input = child.stdin.take();
        Producer { child, input }
    }

    /// Until it answers: the port alone is open long before.
    fn wait(&mut self) {
        let until = Instant::now() + Duration::from_secs(180);
        while !self.answers() {
            let ended = self.child.try_wait().expect("the child is ours");
            let said = || fs::read_to_string(self.folder.join("broker.log")).unwrap_or_default();
            assert!(ended.is_none(), "the broker ended\n{}", said());
            assert!(Instant::now() < until, "no broker\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it says which requests it takes (`ApiVersions`), which it does once it serves.
    fn answers(&self) -> bool {
        // Length; key 18, version 0, correlation 7, no client id.
        const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255];
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = [0; 10];
        let asked = stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .and_then(|()| stream.write_all(&REQUEST))
            .and_then(|()| stream.read_exact(&mut answer));
        asked.is_ok() && answer[4..] == [0, 0, 0, 7, 0, 0]
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A console producer, killed with the scenario.
#[derive(Debug)]
pub struct Producer {
    child: Child,
    input: Option<ChildStdin>,
}

impl Producer {
    /// Gives it records: key and value.
    ///
    /// # Panics
    /// If it has ended.
    pub fn send(&mut self, records: &[(String, String)]) {
        let lines: String = records.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        let input = self.input.as_mut().expect("nobody has finished it");
        input.write_all(lines.as_bytes()).and_then(|()| input.flush()).expect("the producer reads");
    }

    /// The end of its input; waits until it has sent all.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().expect("the child is ours")
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `program` has Kafka linked in, as it says when it is to use it.
fn speaks_kafka(program: &Path, folder: &Path) -> bool {
    let asked = crate::command(program, &folder.join("none"), &["land"])
        .env("FLYWHEEL__STREAM__URL", "kafka://127.0.0.1:1?timeout=1s")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    !String::from_utf8_lossy(&asked.stderr).contains("built without Kafka")
}

/// The folder with the broker's jars; those of `storage/log-kafka`, which come through Maven once.
fn jars() -> PathBuf {
    for program in ["java", "mvn"] {
        let found = Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            found.is_ok(),
            "FLYWHEEL_REQUIRE has kafka, and there is no `{program}`: install a Java 17 runtime and Maven"
        );
    }
    // A test lies in target/PROFILE/deps.
    let test = std::env::current_exe().expect("a program knows its file");
    let target = test.ancestors().nth(3).expect("a test lies in target/PROFILE/deps");
    let cache = target.join("tmp/kafka-4.1.1");
    fs::create_dir_all(&cache).expect("target takes folders");
    let lock = File::create(cache.join("lock")).expect("target takes files");
    lock.lock().expect("one process fetches, others wait");
    let (libs, complete) = (cache.join("libs"), cache.join("complete"));
    if !complete.exists() {
        eprintln!("fetching Kafka's jars (54 MB, once)");
        let done = Command::new("mvn")
            .args(["-q", "-B", "-f", &format!("{BROKER}/pom.xml"), "dependency:copy-dependencies"])
            .args(["-DincludeScope=runtime", &format!("-DoutputDirectory={}", libs.display())])
            .status()
            .expect("mvn starts");
        assert!(done.success(), "Maven could not fetch Kafka's jars; `mvn -f {BROKER}/pom.xml` says why");
        File::create(complete).expect("target takes files");
    }
    libs
}

fn java(libs: &Path) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    java.arg(format!("{}/*:{BROKER}", libs.display()));
    java
}

fn spawn(libs: &Path, folder: &Path) -> Child {
    let log =
        File::options().create(true).append(true).open(folder.join("broker.log")).expect("the folder takes files");
    let mut command = java(libs);
    command.arg("kafka.Kafka").arg(folder.join("server.properties")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a file has copies")).stderr(log);
    dies_with_us(&mut command).spawn().expect("java starts")
}

fn dies_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    }
}

fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("a bound port").port())
}
