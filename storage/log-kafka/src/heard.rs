//! What librdkafka complains of, and what to do about it.

use std::fmt;

/// One complaint: which broker it is about, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub broker: String,
    pub what: String,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.broker.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.broker, self.what) }
    }
}

impl Heard {
    /// Of `[thrd:…]: sasl_ssl://host:port/bootstrap: why (after … in state …)`. The thread and the state say nothing to a
    /// reader, and `sasl_ssl` in the name of a broker does not say that it is about passwords or certificates.
    pub fn parse(line: &str) -> Self {
        let line = line.split_once("]: ").map_or(line, |(_, rest)| rest);
        let named = line.split_once(": ").filter(|(name, _)| name.contains(':') && !name.contains(' '));
        let (name, what) = named.unwrap_or(("", line));
        let name = name.rsplit_once("://").map_or(name, |(_, name)| name);
        let name = name.split_once('/').map_or(name, |(name, _)| name);
        let what = what.rfind(" (after ").map_or(what, |end| &what[..end]);
        Self { broker: name.to_owned(), what: what.trim().to_owned() }
    }

    /// The setting and the fix; and whether the broker has turned us away, so that another try is of no use.
    pub fn fix(&self) -> (&'static str, bool) {
        let text = self.what.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        // First: it quotes the name, in which any word may stand.
        if has(&["failed to resolve"]) {
            ("correct the host in the URL of the log, or the name service of this machine", false)
        } else if has(&["authorization"]) {
            ("the user may not do this; grant it by `kafka-acls`", false)
        } else if has(&["current sasl state", "plaintext broker", "security.protocol", "wrong version number"]) {
            (PROTOCOL, true)
        } else if has(&["mechanism handshake"]) {
            ("set `sasl.mechanism` to one that the broker offers", true)
        } else if has(&["authentication"]) {
            ("check `sasl.mechanism`, `sasl.username` and the secret that `sasl.password.env` or `.file` names", true)
        } else if has(&["verify failed"]) {
            (
                "set `ssl.ca.location` to a file with the certificate (PEM) of who signed the broker's, and write the host \
                 as the certificate has it",
                true,
            )
        } else if has(&["alert bad certificate", "certificate required"]) {
            (
                "the broker wants a certificate of its clients: set `ssl.certificate.location` and `ssl.key.location`",
                true,
            )
        } else if has(&["ssl connection closed by peer"]) {
            // A port that speaks something else hangs up; a broker that is stopped does, too.
            (PROTOCOL, false)
        } else if has(&["ssl"]) {
            ("check `security.protocol` and `ssl.ca.location`", true)
        } else if has(&["apiversion", "disconnected", "invalid"]) {
            (PROTOCOL, false)
        } else if has(&["not enough"]) {
            ("bring the missing replicas back, or lower the topic's `min.insync.replicas`", false)
        } else {
            ("start the broker, or correct host and port in the URL of the log", false)
        }
    }
}

const PROTOCOL: &str = "set `security.protocol` to what this port speaks (plaintext, ssl, sasl_plaintext, sasl_ssl), and \
                        check that it belongs to a Kafka broker (0.11 or newer)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_without_what_says_nothing_to_a_reader() {
        let line = "[thrd:sasl_ssl://h:9093/bootstrap]: sasl_ssl://h:9093/bootstrap: Connect to ipv4#127.0.0.1:9093 failed: \
                    Connection refused (after 0ms in state CONNECT)";
        let heard = Heard::parse(line);
        assert_eq!(heard.to_string(), "h:9093: Connect to ipv4#127.0.0.1:9093 failed: Connection refused");
        // Neither passwords nor certificates are what is wrong.
        assert!(heard.fix().0.contains("start the broker"), "{heard}");
        let closed = Heard::parse("h:9092: Disconnected: SSL connection closed by peer").fix();
        assert!(closed.0.starts_with("set `security.protocol`") && !closed.1);
        assert_eq!(Heard::parse("3/3 brokers are down").to_string(), "3/3 brokers are down");
        assert_eq!(Heard::parse("h:1/1: x: y").to_string(), "h:1: x: y");
    }
}
