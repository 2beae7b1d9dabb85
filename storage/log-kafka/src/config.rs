//! `kafka://host:port[,host:port]/?setting=value&…`: where the brokers are and how to talk to them.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// What a `kafka://` URL says. Secrets are named by the URL and read from the environment or a file, never written in it.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Before the name of every topic and group: several logs may share a cluster. `prefix=`, empty by default.
    pub prefix: String,
    /// After this long a call gives up with `Unavailable`. `timeout=`, 10 s by default.
    pub timeout: Duration,
    /// Newest bytes of each followed partition that are kept in memory for waiting readers. `tail.bytes=`, 4 MiB.
    pub tail_bytes: usize,
    /// Settings of librdkafka: `security.protocol`, `sasl.*`, `ssl.*` and a few others.
    pub(crate) client: BTreeMap<String, String>,
    /// Settings of the topics that this log creates: `topic.*`.
    pub(crate) topic: BTreeMap<String, String>,
    /// Copies of each partition of the topics that this log creates; the broker's default when absent.
    pub(crate) replication: Option<i32>,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("client", &self.client.keys().collect::<Vec<_>>())
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with a URL, each with what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("the Kafka URL cannot be used: {}", .problems.join("; "))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

/// Settings of librdkafka that a URL may name.
const CLIENT: &[&str] = &[
    "client.id",
    "client.rack",
    "compression.type",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
    "security.protocol",
    "socket.keepalive.enable",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "enable.ssl.certificate.verification",
];

/// Other names that librdkafka knows for them.
const ALIASES: &[(&str, &str)] = &[("sasl.mechanisms", "sasl.mechanism"), ("compression.codec", "compression.type")];

/// What Kafka's own clients call otherwise, and what to write instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("bootstrap.servers", "the brokers stand before the `?`"),
    ("sasl.jaas.config", "use `sasl.username=` and `sasl.password.env=` or `.file=`"),
    ("ssl.truststore.", "use `ssl.ca.location=`, a file with the certificates as PEM"),
    (
        "ssl.keystore.type",
        "use `ssl.keystore.location=` for PKCS#12, `ssl.certificate.location=` and `ssl.key.location=` for PEM",
    ),
];

/// What a URL must not contain, because URLs are printed.
const SECRETS: &[&str] = &["sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password"];

/// Paths; that the file is there is looked at before any broker is asked.
const FILES: &[&str] = &["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location"];

/// What the topics that we create are like unless the URL says otherwise: nothing goes before it is trimmed, times are
/// the broker's, and the largest batch fits into one record batch.
const TOPIC: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("message.timestamp.type", "LogAppendTime"),
    ("max.message.bytes", "83886080"),
];

impl KafkaConfig {
    /// # Errors
    /// With every problem found; no secret is repeated.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        url.parse()
    }

    /// The cluster, as messages name it.
    pub(crate) fn target(&self) -> String {
        format!("kafka://{}", self.brokers)
    }
}

impl FromStr for KafkaConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let rest = url.strip_prefix("kafka://").unwrap_or_else(|| {
            problems.push("it must begin with `kafka://`".to_owned());
            ""
        });
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (brokers, path) = place.split_once('/').unwrap_or((place, ""));
        if brokers.contains('@') {
            problems.push(
                "credentials do not belong before the host; use `sasl.username=` and `sasl.password.env=`".to_owned(),
            );
        } else if problems.is_empty() {
            problems.extend(brokers.split(',').filter_map(bad_broker));
        }
        if !path.is_empty() {
            problems.push("it has a path; topics are told apart by `prefix=`".to_owned());
        }
        let mut config = Self {
            brokers: brokers.to_owned(),
            prefix: String::new(),
            timeout: Duration::from_secs(10),
            tail_bytes: 4 << 20,
            client: BTreeMap::new(),
            topic: TOPIC.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            replication: None,
        };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if let Err(problem) = config.set(&key, &value) {
                problems.push(problem);
            }
        }
        config.check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}

impl KafkaConfig {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "prefix" => {
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                if value.len() > 64 || !value.bytes().all(fits) {
                    return Err(format!("`prefix={value}` has other characters than letters, digits and `-_.`"));
                }
                value.clone_into(&mut self.prefix);
            }
            "timeout" => {
                let bad = || format!("`timeout={value}` is no time between `1s` and `5m`");
                self.timeout = duration(value).filter(|t| (1..=300).contains(&t.as_secs())).ok_or_else(bad)?;
            }
            "tail.bytes" => {
                self.tail_bytes = value.parse().map_err(|_| format!("`tail.bytes={value}` is no number of bytes"))?;
            }
            "topic.replication.factor" => {
                let bad = || format!("`{key}={value}` is no number of copies");
                self.replication = Some(value.parse().ok().filter(|n| (1..=100).contains(n)).ok_or_else(bad)?);
            }
            _ if key.starts_with("topic.") => {
                self.topic.insert(key["topic.".len()..].to_owned(), value.to_owned());
            }
            _ => self.set_client(key, value)?,
        }
        Ok(())
    }

    /// A setting of librdkafka: its value, or by `.env` and `.file` where that is.
    fn set_client(&mut self, key: &str, value: &str) -> Result<(), String> {
        let bare = [".env", ".file"].iter().find_map(|from| key.strip_suffix(from)).unwrap_or(key);
        let name = ALIASES.iter().find(|(alias, _)| *alias == bare).map_or(bare, |(_, name)| *name);
        if let Some((_, instead)) = ELSEWHERE.iter().find(|(start, _)| bare.starts_with(start)) {
            return Err(format!("`{bare}` is not a setting here; {instead}"));
        }
        if !CLIENT.contains(&name) {
            let all = CLIENT.join(", ");
            return Err(format!("`{key}` is not a setting; there are prefix, timeout, tail.bytes, topic.*, {all}"));
        }
        let found = if key.ends_with(".env") {
            std::env::var(value).map_err(|_| format!("`{key}`: there is no variable `{value}`"))?
        } else if key.ends_with(".file") {
            let text = std::fs::read_to_string(value).map_err(|error| format!("`{key}={value}`: {error}"))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        } else if SECRETS.contains(&name) {
            // The value is not repeated.
            return Err(format!(
                "`{key}` would be seen by all who see the URL; use `{key}.env=NAME` or `{key}.file=PATH`"
            ));
        } else {
            value.to_owned()
        };
        if self.client.insert(name.to_owned(), found).is_some() {
            return Err(format!("`{name}` is given twice"));
        }
        Ok(())
    }

    /// Settings that only make sense together.
    fn check(&self, problems: &mut Vec<String>) {
        let get = |key: &str| self.client.get(key).map(|value| value.to_ascii_lowercase());
        let protocol = get("security.protocol").unwrap_or_else(|| "plaintext".to_owned());
        if !["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].contains(&protocol.as_str()) {
            problems
                .push(format!("`security.protocol={protocol}` is none of plaintext, ssl, sasl_plaintext, sasl_ssl"));
        }
        let mechanism = get("sasl.mechanism");
        if protocol.starts_with("sasl") {
            match mechanism.as_deref() {
                Some("plain" | "scram-sha-256" | "scram-sha-512") => {}
                Some(other) => {
                    problems.push(format!("`sasl.mechanism={other}` is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"))
                }
                None => problems.push("SASL needs `sasl.mechanism=` PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512".to_owned()),
            }
            for key in ["sasl.username", "sasl.password"] {
                if get(key).is_none() {
                    problems.push(format!("SASL needs `{key}.env=` or `{key}.file=`"));
                }
            }
        } else if self.client.keys().any(|key| key.starts_with("sasl.")) {
            problems.push("there are SASL settings; `security.protocol=sasl_ssl` turns them on".to_owned());
        }
        let needs_tls = protocol.ends_with("ssl") || mechanism.is_some_and(|m| m.starts_with("scram"));
        if needs_tls && !cfg!(feature = "tls") {
            problems.push("this program was built without OpenSSL; build it with the feature `kafka`".to_owned());
        }
        if self.client.keys().any(|key| key.starts_with("ssl.")) && !protocol.ends_with("ssl") {
            problems.push("there are TLS settings; `security.protocol=ssl` or `sasl_ssl` turns them on".to_owned());
        }
        for (key, path) in self.client.iter().filter(|(key, _)| FILES.contains(&key.as_str())) {
            // `probe` lets librdkafka look where certificates usually lie.
            if !(key == "ssl.ca.location" && path == "probe")
                && let Err(error) = std::fs::metadata(path)
            {
                problems.push(format!("`{key}={path}`: {error}"));
            }
        }
    }
}

fn bad_broker(broker: &str) -> Option<String> {
    let fits = broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    (!fits).then(|| format!("`{broker}` is no `host:port`"))
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let n: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(n)),
        "s" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_secs(n.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(url: &str) -> String {
        KafkaConfig::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn a_url_names_brokers_and_settings() {
        let config = KafkaConfig::parse(
            "kafka://a:9092,b:9093?prefix=x.&timeout=2s&compression.type=lz4&topic.replication.factor=3&topic.flush.messages=1",
        )
        .unwrap();
        assert_eq!((config.brokers.as_str(), config.prefix.as_str()), ("a:9092,b:9093", "x."));
        assert_eq!((config.timeout, config.replication), (Duration::from_secs(2), Some(3)));
        assert_eq!(config.client["compression.type"], "lz4");
        assert_eq!((&*config.topic["flush.messages"], &*config.topic["retention.ms"]), ("1", "-1"));
        assert!(KafkaConfig::parse("kafka://a:1/").is_ok());
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let all = problems("kafka://a,b:x/topic?timeout=0s&colour=red&sasl.username=u&topic.replication.factor=no");
        for part in ["`a` is no", "`b:x` is no", "path", "`timeout=0s`", "`colour` is not", "SASL settings", "copies"] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(problems("redis://a:1").contains("kafka://"));
        assert!(problems("kafka://").contains("host:port"));
    }

    #[test]
    fn settings_go_by_the_names_that_librdkafka_knows_and_others_are_refused_with_what_to_write() {
        let secret = "sasl.username=u&sasl.password.env=PATH";
        let url = format!("kafka://a:1?security.protocol=SASL_PLAINTEXT&sasl.mechanisms=PLAIN&{secret}");
        assert_eq!(KafkaConfig::parse(&url).unwrap().client["sasl.mechanism"], "PLAIN");
        assert_eq!(
            KafkaConfig::parse("kafka://a:1?compression.codec=zstd").unwrap().client["compression.type"],
            "zstd"
        );
        let twice = problems(&format!("{url}&sasl.mechanism=PLAIN"));
        assert!(twice.contains("`sasl.mechanism` is given twice"), "{twice}");
        let all =
            problems("kafka://a:1?ssl.truststore.location=/x&sasl.jaas.config=y&bootstrap.servers=b:1&linger.ms=3");
        for part in ["ssl.ca.location=", "sasl.password.env=", "before the `?`", "`linger.ms` is not a setting"] {
            assert!(all.contains(part), "{part} in {all}");
        }
    }

    #[test]
    fn a_certificate_that_is_not_there_is_named_with_its_path() {
        let all = problems("kafka://a:1?security.protocol=ssl&ssl.ca.location=/no/ca.pem&ssl.key.pem=k");
        assert!(all.contains("`ssl.ca.location=/no/ca.pem`: No such file"), "{all}");
        assert!(all.contains("`ssl.key.pem.file=PATH`") && !all.contains("=k`"), "{all}");
    }

    #[test]
    fn secrets_come_from_a_file_and_are_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "s3cret\n").unwrap();
        let url = "kafka://a:1?security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=u&sasl.password";
        let config = KafkaConfig::parse(&format!("{url}.file={}", file.display())).unwrap();
        assert_eq!(config.client["sasl.password"], "s3cret");
        assert!(!format!("{config:?}").contains("s3cret"));
        let inline = problems(&format!("{url}=s3cret"));
        assert!(inline.contains("sasl.password.env") && !inline.contains("s3cret"), "{inline}");
        let before = problems("kafka://u:s3cret@a:1");
        assert!(before.contains("sasl.username=") && !before.contains("s3cret"), "{before}");
        assert!(problems(&format!("{url}.env=FLYWHEEL_NO_SUCH_VARIABLE")).contains("FLYWHEEL_NO_SUCH_VARIABLE"));
    }
}
