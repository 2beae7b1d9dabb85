//! TLS and SASL on a real Apache Kafka broker: every way in works, and every way to be turned away is one message that
//! names the setting and the fix.

mod harness;

use std::{
    fs, io,
    process::Command,
    sync::{Arc, Mutex},
    time::Instant,
};

use flywheel_log::{EventLog, LogErrorKind, Position, ReadLimit, Record, Topic};
use flywheel_log_kafka::KafkaLog;
use harness::{Broker, Doors};
use tempfile::TempDir;
use tokio::task::JoinSet;

const PASSWORD: &str = "open-sesame";
const WRONG: &str = "open-barley";

/// A CA with a broker's and a client's certificate, another CA, and the files of passwords.
struct Papers(TempDir);

impl Papers {
    fn new() -> Self {
        let papers = Self(tempfile::tempdir().unwrap());
        for ca in ["ca", "other-ca"] {
            papers.certificate(ca, &["-addext", "basicConstraints=critical,CA:TRUE"]);
        }
        let (ca, key) = (papers.file("ca.pem"), papers.file("ca.key"));
        for (name, address) in [("broker", "subjectAltName=IP:127.0.0.1"), ("client", "subjectAltName=DNS:client")] {
            papers.certificate(name, &["-CA", &ca, "-CAkey", &key, "-addext", address]);
            // Kafka takes key and certificate in one file.
            let both =
                ["key", "pem"].map(|suffix| fs::read_to_string(papers.file(&format!("{name}.{suffix}"))).unwrap());
            fs::write(papers.file(&format!("{name}.both")), both.concat()).unwrap();
        }
        fs::write(papers.file("password"), PASSWORD).unwrap();
        fs::write(papers.file("wrong"), WRONG).unwrap();
        papers
    }

    /// `NAME.pem` and `NAME.key`.
    fn certificate(&self, name: &str, more: &[&str]) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN=flywheel-{name}")])
            .args(["-out", &self.file(&format!("{name}.pem")), "-keyout", &self.file(&format!("{name}.key"))])
            .args(more)
            .output()
            .expect("`openssl` is there, as its library is");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A listener for each way in.
    fn doors(&self) -> Doors {
        let (module, plain) = ("org.apache.kafka.common.security", "plain.PlainLoginModule");
        let sasl = |listener: &str| {
            format!(
                "listener.name.{listener}.plain.sasl.jaas.config={module}.{plain} required user_ada=\"{PASSWORD}\";\n\
                 listener.name.{listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
            )
        };
        let properties = format!(
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256\n{}{}\
             ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.mutual.ssl.client.auth=required\n",
            sasl("sasl"),
            sasl("both"),
            self.file("broker.both"),
            self.file("ca.pem")
        );
        Doors {
            listeners: vec![("SASL", "SASL_PLAINTEXT"), ("TLS", "SSL"), ("MUTUAL", "SSL"), ("BOTH", "SASL_SSL")],
            properties,
            users: vec![format!("SCRAM-SHA-256=[name=ada,password={PASSWORD}]")],
        }
    }

    /// Options of a URL, with `{NAME}` for the path of a file.
    fn options(&self, text: &str) -> String {
        let mut text = text.to_owned();
        while let Some((before, rest)) = text.split_once('{') {
            let (name, after) = rest.split_once('}').unwrap();
            text = format!("{before}{}{after}", self.file(name));
        }
        text
    }
}

/// All that was said at `warn` or above since the last look.
#[derive(Debug, Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Of every thread, librdkafka's too.
    fn listen() -> Self {
        let this = Self::default();
        let to = this.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || to.clone())
            .init();
        this
    }

    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl io::Write for Warnings {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const SASL: &str = "security.protocol=sasl_plaintext&sasl.username=ada&sasl.password.file={password}";
const BOTH: &str =
    "security.protocol=sasl_ssl&sasl.username=ada&sasl.password.file={password}&ssl.ca.location={ca.pem}";
const TLS: &str = "security.protocol=ssl&ssl.ca.location={ca.pem}";

/// Listener and options that let us in; those of TLS and SCRAM only where OpenSSL is linked in.
const WAYS_IN: &[(&str, &str, &str)] = &[
    ("SASL", SASL, "sasl.mechanism=PLAIN"),
    ("SASL", SASL, "sasl.mechanisms=SCRAM-SHA-256"),
    ("TLS", TLS, ""),
    ("TLS", "security.protocol=SSL", "ssl.ca.pem.file={ca.pem}"),
    ("MUTUAL", TLS, "ssl.certificate.location={client.pem}&ssl.key.location={client.key}"),
    ("BOTH", BOTH, "sasl.mechanism=PLAIN"),
    ("BOTH", BOTH, "sasl.mechanism=SCRAM-SHA-256"),
];

/// Listener, options that are wrong there, and what the one message must name.
const TURNED_AWAY: &[(&str, &str, &[&str])] = &[
    (
        "SASL",
        "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=ada&sasl.password.file={wrong}",
        &["Invalid username or password", "the secret that `sasl.password.env`"],
    ),
    (
        "SASL",
        "security.protocol=sasl_plaintext&sasl.mechanism=SCRAM-SHA-256&sasl.username=ada&sasl.password.file={wrong}",
        &["invalid credentials", "the secret that `sasl.password.env`"],
    ),
    (
        "SASL",
        "security.protocol=sasl_plaintext&sasl.mechanism=SCRAM-SHA-256&sasl.username=bob&sasl.password.file={password}",
        &["invalid credentials", "`sasl.username`"],
    ),
    (
        "BOTH",
        "security.protocol=sasl_ssl&ssl.ca.location={ca.pem}&sasl.mechanism=PLAIN&sasl.username=ada&\
         sasl.password.file={wrong}",
        &["Invalid username or password", "the secret that `sasl.password.env`"],
    ),
    (
        "SASL",
        "security.protocol=sasl_plaintext&sasl.mechanism=SCRAM-SHA-512&sasl.username=ada&sasl.password.file={password}",
        &["PLAIN,SCRAM-SHA-256", "set `sasl.mechanism`"],
    ),
    ("SASL", "", &["set `security.protocol`"]),
    ("TLS", "", &["set `security.protocol`"]),
    ("SASL", "security.protocol=ssl&ssl.ca.location={ca.pem}", &["set `security.protocol`"]),
    ("PLAINTEXT", "security.protocol=ssl&ssl.ca.location={ca.pem}", &["set `security.protocol`"]),
    (
        "PLAINTEXT",
        "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=ada&sasl.password.file={password}",
        &["set `security.protocol`"],
    ),
    ("TLS", "security.protocol=ssl&ssl.ca.location={other-ca.pem}", &["certificate", "set `ssl.ca.location`"]),
    ("TLS", "security.protocol=ssl", &["certificate", "set `ssl.ca.location`"]),
    ("TLS", "security.protocol=ssl&ssl.ca.location={absent.pem}", &["`ssl.ca.location=", "No such file"]),
    ("TLS", "security.protocol=ssl&ssl.ca.location={password}", &["ssl.ca.location"]),
    ("TLS@localhost", "security.protocol=ssl&ssl.ca.location={ca.pem}", &["certificate", "as the certificate has it"]),
    ("MUTUAL", "security.protocol=ssl&ssl.ca.location={ca.pem}", &["set `ssl.certificate.location`"]),
];

/// Where the tests of TLS and SCRAM run at all.
fn has_tls() -> bool {
    let required = std::env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
    let has = cfg!(feature = "tls");
    assert!(
        has || !required.split(',').any(|name| name == "kafka"),
        "FLYWHEEL_REQUIRE has kafka, and this was built without TLS: add --features flywheel-cli/kafka, or flywheel-log-kafka/tls"
    );
    has
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_works_and_whoever_is_turned_away_is_told_once_which_setting_to_mend() {
    if !has_tls() {
        eprintln!("SKIPPED: built without TLS (--features flywheel-log-kafka/tls)");
        return;
    }
    let papers = Papers::new();
    let Some(mut broker) = Broker::start(&papers.doors()).await else { return };
    let (warnings, began) = (Warnings::listen(), Instant::now());
    for (n, (listener, options, more)) in WAYS_IN.iter().enumerate() {
        let url = broker.url_of(listener, &papers.options(&format!("prefix=way{n}-&{options}&{more}")));
        let log = KafkaLog::connect(&url).await.unwrap_or_else(|error| panic!("{listener} {options}: {error}"));
        let lane = Topic::new("events").partition(0);
        log.create_topic(&lane.topic, 1).await.unwrap();
        let last = log.append(&lane, vec![Record::new("k", "a"), Record::new("k", "b")]).await.unwrap();
        let found = log.read(&lane, Position::Start, ReadLimit::default()).await.unwrap();
        assert_eq!(
            found.iter().map(|record| &record.value[..]).collect::<Vec<_>>(),
            [b"a", b"b"],
            "{listener} {options}"
        );
        assert_eq!(found.last().map(|record| record.offset), Some(last));
    }
    let said = warnings.take();
    assert!(!said.contains("FAIL"), "nothing was wrong: {said}");

    eprintln!("{} ways in after {:?}", WAYS_IN.len(), began.elapsed());

    // All at once: each waits a second or three.
    let mut cases = JoinSet::new();
    for (listener, options, names) in TURNED_AWAY {
        // The certificate is for the address and not for the name.
        let (listener, host) = listener.split_once('@').unwrap_or((listener, "127.0.0.1"));
        let url = broker.url_of(listener, &papers.options(&format!("timeout=3s&{options}"))).replace("127.0.0.1", host);
        cases.spawn(async move { (listener, options, names, KafkaLog::connect(&url).await) });
    }
    let mut wrong = Vec::new();
    while let Some(case) = cases.join_next().await {
        let (listener, options, names, result) = case.unwrap();
        let said = result.expect_err("it is turned away").to_string();
        eprintln!("{listener} {options}\n  {said}");
        let secret = said.contains(WRONG) || said.contains(PASSWORD);
        if secret || said.contains('\n') || !names.iter().all(|name| said.contains(name)) {
            wrong.push(format!("{listener} {options}\n  must name {names:?} and says: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(warnings.take(), "", "the error alone says it");
    eprintln!("{} turned away after {:?}", TURNED_AWAY.len(), began.elapsed());

    // Once it is open, what goes wrong is warned of.
    let log = KafkaLog::connect(&broker.url("timeout=1s")).await.unwrap();
    broker.kill();
    log.topics().await.expect_err("the broker is gone");
    assert!(warnings.take().contains("127.0.0.1"), "a loss is told");
}

#[tokio::test]
async fn a_host_that_no_name_service_knows_is_named() {
    let error = KafkaLog::connect("kafka://no-such-host.invalid:9092?timeout=1s").await.unwrap_err();
    let said = error.to_string();
    assert_eq!(error.kind(), LogErrorKind::Unavailable);
    assert!(said.contains("no-such-host.invalid:9092") && said.contains("correct the host in the URL"), "{said}");
}
