//! `redis://[user[:password]@]host[:port][/db]?setting=value&…`: where the server is and how to talk to it.

use std::{fmt, str::FromStr, time::Duration};

use url::Url;

/// What a `redis://` (or, over TLS, `rediss://`) URL says.
#[derive(Clone)]
pub struct RedisConfig {
    /// Before every key: several logs may share a database. `prefix=`, `flywheel` by default.
    pub prefix: String,
    /// After this long without a connection, or without an answer, a call gives up with `Unavailable`. `timeout=`, 10 s.
    pub timeout: Duration,
    /// A group's member that was not heard of for so long is dead. `lease=`, 10 s.
    pub lease: Duration,
    /// Has the password.
    pub(crate) server: Url,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("server", &self.target())
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with a URL, each with what to write instead. No password is repeated.
#[derive(Debug, thiserror::Error)]
#[error("the Redis URL cannot be used: {}", .problems.join("; "))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl RedisConfig {
    /// # Errors
    /// With every problem found; no password is repeated.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        url.parse()
    }

    /// The server as messages name it: without user and password.
    pub fn target(&self) -> String {
        let (scheme, host) = (self.server.scheme(), self.server.host_str().unwrap_or_default());
        format!("{scheme}://{host}:{}{}", self.server.port().unwrap_or(6379), self.server.path().trim_end_matches('/'))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "prefix" => {
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
                if value.is_empty() || value.len() > 64 || !value.bytes().all(fits) {
                    return Err(format!("`prefix={value}` is empty or has others than letters, digits and `-_.:`"));
                }
                value.clone_into(&mut self.prefix);
            }
            "timeout" => self.timeout = span(key, value, 100)?,
            "lease" => self.lease = span(key, value, 500)?,
            "password.env" => {
                let found = std::env::var(value).map_err(|_| format!("`{key}`: there is no variable `{value}`"))?;
                self.set_password(&found)?;
            }
            "password.file" => {
                let found = std::fs::read_to_string(value).map_err(|e| format!("`{key}={value}`: {e}"))?;
                self.set_password(found.trim_end_matches(['\r', '\n']))?;
            }
            "password" => {
                // The value is not repeated.
                return Err("`password` is not a setting; use `password.env=NAME` or `password.file=PATH`".to_owned());
            }
            other => {
                return Err(format!(
                    "`{other}` is not a setting; there are prefix, timeout, lease, password.env, password.file"
                ));
            }
        }
        Ok(())
    }

    fn set_password(&mut self, password: &str) -> Result<(), String> {
        if self.server.password().is_some() {
            return Err("there are two passwords; keep the one of `password.env=` or `password.file=`".to_owned());
        }
        self.server.set_password(Some(password)).map_err(|()| "a password needs a host".to_owned())
    }
}

impl FromStr for RedisConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        let one = |problem: String| ConfigError { problems: vec![problem] };
        // The parser's errors do not repeat the URL.
        let mut server = Url::parse(url).map_err(|error| one(format!("{error}; write `redis://host:port/db`")))?;
        // What stands behind the authority may be the rest of a password then, so none of it is repeated.
        let of_a_password = |text: &str| text.contains('@');
        let cut = of_a_password(server.path())
            || server.fragment().is_some()
            || server.query_pairs().any(|(key, value)| {
                of_a_password(&key) || (key != "password.file" && key != "password.env" && of_a_password(&value))
            });
        if cut {
            return Err(one(
                "there is a `@` or `#` where none belongs; if it is the password's, write `%40` for `@`, `%2F` \
                            for `/`, `%3F` for `?` and `%23` for `#`, or keep it in `password.env=NAME` or \
                            `password.file=PATH`"
                    .to_owned(),
            ));
        }
        let mut problems = Vec::new();
        match server.scheme() {
            "redis" => {}
            "rediss" if cfg!(feature = "tls") => {}
            "rediss" => {
                problems.push("this program was built without TLS for Redis; use the feature `redis-tls`".to_owned())
            }
            other => problems.push(format!("it begins with `{other}:`; write `redis://` or `rediss://`")),
        }
        if server.host_str().is_none_or(str::is_empty) {
            problems.push("it names no host; write `redis://host:port/db`".to_owned());
        }
        let db = server.path().trim_matches('/');
        if !db.is_empty() && db.parse::<u32>().is_err() {
            problems.push(format!("`/{db}` is not the number of a database; topics are told apart by `prefix=`"));
        }
        let settings: Vec<_> = server.query_pairs().into_owned().collect();
        server.set_query(None);
        server.set_fragment(None);
        let (timeout, lease) = (Duration::from_secs(10), Duration::from_secs(10));
        let mut config = Self { prefix: "flywheel".to_owned(), timeout, lease, server };
        problems.extend(settings.iter().filter_map(|(key, value)| config.set(key, value).err()));
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}

fn span(key: &str, value: &str, least_ms: u64) -> Result<Duration, String> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &value[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    ms.filter(|ms| (least_ms..=300_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{key}={value}` is no time between `{least_ms}ms` and `5m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(url: &str) -> String {
        RedisConfig::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn a_url_names_server_and_settings() {
        let config = RedisConfig::parse("redis://h:1/2?prefix=a.b&timeout=250ms&lease=2s").unwrap();
        assert_eq!((config.prefix.as_str(), config.target().as_str()), ("a.b", "redis://h:1/2"));
        assert_eq!((config.timeout, config.lease), (Duration::from_millis(250), Duration::from_secs(2)));
        let config = RedisConfig::parse("redis://h").unwrap();
        assert_eq!((config.prefix.as_str(), config.target().as_str()), ("flywheel", "redis://h:6379"));
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let all = problems("redis://h/topic?timeout=0s&colour=red&prefix={x}&lease=1h");
        for part in ["`/topic`", "`timeout=0s`", "`colour` is not", "`prefix={x}`", "`lease=1h`"] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(problems("kafka://a:1").contains("redis://"));
        assert!(problems("redis:///0").contains("host"));
        assert!(problems("nonsense").contains("redis://host:port/db"));
    }

    #[test]
    fn no_part_of_a_password_is_repeated_whatever_characters_it_has() {
        for url in [
            "redis://u:12/s3cret@h/0",
            "redis://u:12/34/s3cret@h:6379/0",
            "redis://u:12?s3cret@h:6379/0",
            "redis://u:12?s3cret=1@h:6379/0",
            "redis://u:12?prefix=s3cret@h:6379/0",
            "redis://u:12?timeout=s3cret@h",
            "redis://u:12#s3cret@h/0",
            "redis://:p@12/s3cret@h/0",
            "redis://:p@h:1/s3cret@x?colour=red",
            "redis://:s3cret@/0",
            "redis://:12/s3cret@h/0",
            "redis://:a:s3cret@[::1/0",
            "redis:s3cret@h",
            "redis:/s3cret@h",
            "s3cret@h:6379",
        ] {
            let config = RedisConfig::parse(url);
            let said = format!("{config:?} {}", config.as_ref().map_or_else(|e| e.to_string(), RedisConfig::target));
            assert!(!said.contains("s3cret"), "{url}: {said}");
            assert!(config.is_err(), "{url}: {said}");
        }
        // These are whole: the last `@` before the first `/` ends the password, and a file may have one in its name.
        for url in ["redis://:s3cr@t@h:1/2", "redis://:s3cr%40t@h:1/2", "redis://:s3cr%2Ft%3F%23@h:1/2"] {
            let config = RedisConfig::parse(url).unwrap();
            assert_eq!(config.target(), "redis://h:1/2");
            assert!(!format!("{config:?}").contains("s3cr"), "{config:?}");
        }
        assert!(problems("redis://h?password.file=/no/such@file").contains("/no/such@file"));
        assert!(problems("redis://u:12/s3cret@h/0").contains("%2F"));
    }

    #[test]
    fn a_password_comes_from_the_url_or_a_file_and_is_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "s3cret/@\n").unwrap();
        let config = RedisConfig::parse(&format!("redis://u@h?password.file={}", file.display())).unwrap();
        assert_eq!(config.server.password(), Some("s3cret%2F%40"));
        let inline = RedisConfig::parse("redis://:s3cret@h:1").unwrap();
        assert!(!format!("{config:?}{inline:?}{}", inline.target()).contains("s3cret"));
        for url in
            ["redis://h?password=s3cret", "redis://:s3cret@h/x", "redis://:s3cret@h?lease=9", "kafka://:s3cret@h"]
        {
            assert!(!problems(url).contains("s3cret"), "{url}");
        }
        assert!(problems("redis://:s3cret@h?password.env=PATH").contains("two passwords"));
        assert!(problems("redis://h?password.env=FLYWHEEL_NO_SUCH_VARIABLE").contains("FLYWHEEL_NO_SUCH_VARIABLE"));
    }
}
