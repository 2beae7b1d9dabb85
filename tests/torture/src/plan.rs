use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use flywheel_backends::StoreConfig;
use flywheel_lake::Lake;

/// How often a Redis of the run's own syncs its append-only file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisSync {
    /// Before it answers; acknowledgements are `fsynced`.
    Always,
    /// Once a second; acknowledgements are `memory`, and a cut of power loses some.
    EverySecond,
}

impl RedisSync {
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
        }
    }
}

/// The log under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChoice {
    Embedded,
    /// A `redis-server` that the run starts, kills and ends.
    Redis(RedisSync),
    /// A log that runs already; its servers are left in peace.
    Url(String),
}

impl FromStr for LogChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "embedded" | "embedded:" => Ok(Self::Embedded),
            "redis" | "redis:always" => Ok(Self::Redis(RedisSync::Always)),
            "redis:everysec" => Ok(Self::Redis(RedisSync::EverySecond)),
            url if url.contains("://") => Ok(Self::Url(url.to_owned())),
            _ => {
                Err(format!("`{text}` is none of embedded, redis, redis:everysec or a URL such as redis://host:port/0"))
            }
        }
    }
}

impl fmt::Display for LogChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Redis(sync) => write!(f, "redis:{}", sync.setting()),
            // What stands before the host may be a password.
            Self::Url(url) => match (url.split_once("://"), url.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://…@{place}"),
                _ => f.write_str(url),
            },
        }
    }
}

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// This program; it is started as the child.
    pub program: PathBuf,
    /// Arguments that make it serve, before those of [`crate::Served`].
    pub arguments: Vec<String>,
    /// Empty folder of the run.
    pub folder: PathBuf,
    pub log: LogChoice,
    /// Where the tables lie: in `folder`, or below a prefix of a bucket that nothing else is in.
    pub store: StoreConfig,
    pub kills: u32,
    /// Cuts of power; they need `shim`.
    pub cuts: u32,
    /// `libflywheel_powercut.so`.
    pub shim: Option<PathBuf>,
    /// Log and store of the child also fail and are slow.
    pub faults: bool,
    pub seed: u64,
    /// Events a second of all producers together, at most.
    pub rate: u32,
    pub producers: u32,
    pub partitions: u32,
    /// A life lasts so long, from the moment that the doors are open.
    pub life: (Duration, Duration),
    /// Longest wait for a start, for the last acknowledgement and for the last row.
    pub patience: Duration,
}

fn name(seed: u64) -> String {
    format!("torture-{seed}")
}

/// Log and store that are configured for something else, under names that only the run with this seed has.
pub fn apart(log: &str, store: &StoreConfig, seed: u64) -> (LogChoice, StoreConfig) {
    let name = name(seed);
    let mut store = store.clone();
    if !store.is_local() {
        store.url = format!("{}/{name}", store.url.trim_end_matches('/'));
    }
    if log.starts_with("embedded:") {
        return (LogChoice::Embedded, store);
    }
    let (server, settings) = log.split_once('?').unwrap_or((log, ""));
    let (prefix, others): (Vec<_>, Vec<_>) =
        settings.split('&').filter(|setting| !setting.is_empty()).partition(|setting| setting.starts_with("prefix="));
    let before = prefix.first().map_or("", |setting| &setting["prefix=".len()..]);
    // Kafka's stands before the name of a topic, Redis' has a colon behind it.
    let prefix = match (log.starts_with("kafka:"), before) {
        (true, _) => format!("prefix={before}{name}."),
        (false, "") => format!("prefix={name}"),
        (false, _) => format!("prefix={before}.{name}"),
    };
    let settings: Vec<_> = others.into_iter().chain([&*prefix]).collect();
    (LogChoice::Url(format!("{server}?{}", settings.join("&"))), store)
}

/// The tables of a run whose data folder is `data`.
pub(crate) fn open_lake(data: &std::path::Path, store: &StoreConfig) -> anyhow::Result<Lake> {
    match store.bucket()? {
        Some(bucket) => Ok(bucket.lake()),
        None => flywheel_backends::open_lake(data),
    }
}

impl Plan {
    /// What everything of this run is called on servers that others use too.
    pub fn name(&self) -> String {
        name(self.seed)
    }

    /// [`Plan::store`] as JSON; keys are not in it, the child finds them where we do.
    pub(crate) fn store_for_the_child(&self) -> String {
        serde_json::to_string(&self.store).expect("settings serialise")
    }

    /// # Errors
    /// What is wrong, in words for the person who asked.
    pub fn check(&self) -> Result<(), String> {
        if self.cuts > 0 && self.shim.is_none() {
            return Err("cuts of power need libflywheel_powercut.so".to_owned());
        }
        if self.cuts > 0 && matches!(self.log, LogChoice::Url(_)) {
            return Err("the power of a log that runs already is not ours to cut".to_owned());
        }
        if self.rate == 0 || self.producers == 0 || self.partitions == 0 || self.life.0 > self.life.1 {
            return Err(
                "rate, producers and partitions are at least 1, and a life's shortest is not its longest".to_owned()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_used_under_names_of_the_run() {
        let local = StoreConfig::default();
        let of = |log: &str| apart(log, &local, 7).0.to_string();
        assert_eq!(of("embedded:"), "embedded");
        assert_eq!(of("redis://h:1/2"), "redis://h:1/2?prefix=torture-7");
        assert_eq!(of("redis://h:1?timeout=5s&prefix=league"), "redis://h:1?timeout=5s&prefix=league.torture-7");
        assert_eq!(of("kafka://a:1,b:1?prefix=x."), "kafka://a:1,b:1?prefix=x.torture-7.");
        assert!(apart("embedded:", &local, 7).1.is_local());
        let bucket = StoreConfig { url: "s3://lake/league/".to_owned(), ..local };
        assert_eq!(apart("embedded:", &bucket, 7).1.url, "s3://lake/league/torture-7");
    }

    #[test]
    fn a_log_is_read_as_it_is_written_and_a_password_is_not_shown() {
        for text in ["embedded", "redis:always", "redis:everysec"] {
            assert_eq!(text.parse::<LogChoice>().unwrap().to_string(), text);
        }
        let secret: LogChoice = "redis://me:s3cret@127.0.0.1:1/0".parse().unwrap();
        assert_eq!(secret.to_string(), "redis://…@127.0.0.1:1/0");
        assert!("memory".parse::<LogChoice>().is_err());
    }
}
