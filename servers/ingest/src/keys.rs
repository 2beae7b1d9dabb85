//! Who may hand in which games: keys, each bound to a prefix of game ids.
//!
//! A ring holds all keys of the catalog and reads them anew every few seconds, so that a revoked key is refused within
//! that time. While the catalog is away it goes on with what it knows, up to [`RingConfig::valid`]; then no event is
//! taken any more, because a key may have been revoked meanwhile; unless there was no key at all.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode, header};
use flywheel_events::GameId;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::{Problem, Source, Token, source::Prefixes, spool::now_ms};

/// A key as it is kept.
#[derive(Clone)]
pub struct KeyRecord {
    pub id: String,
    /// Game ids that it may write begin so.
    pub prefix: String,
    pub secret_sha256: [u8; 32],
    /// Milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
    pub revoked: bool,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord").field("id", &self.id).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Where keys are kept.
pub trait KeyStore: fmt::Debug + Send + Sync + 'static {
    /// All of them, those that ended too; or why they cannot be read.
    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, String>>;

    /// Requests came with it, the last one at `at_ms`.
    fn used<'a>(&'a self, id: &'a str, at_ms: i64) -> BoxFuture<'a, Result<(), String>>;
}

/// Whether a program must have a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRule {
    /// Without one, game ids are taken that are under no key's prefix.
    #[default]
    Optional,
    Required,
}

/// Times of a ring.
#[derive(Debug, Clone)]
pub struct RingConfig {
    pub rule: KeyRule,
    /// Between two looks at the store.
    pub every: Duration,
    /// How long what was read last is good for while the store is away.
    pub valid: Duration,
    /// The use of a key is noted at most this often.
    pub note_every: Duration,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            rule: KeyRule::Optional,
            every: Duration::from_secs(10),
            valid: Duration::from_secs(300),
            note_every: Duration::from_secs(60),
        }
    }
}

/// Unknown ids make the ring look at the store, but not more often than this: who comes with one waits so long at most.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<String, KeyRecord>,
    /// Of keys that are good.
    prefixes: Arc<Prefixes>,
}

#[derive(Debug, Default)]
struct State {
    known: Arc<Known>,
    read_at: Option<Instant>,
    looked_at: Option<Instant>,
    why_away: String,
    /// When each key was used last, and when that was noted.
    used: HashMap<String, (i64, Option<Instant>)>,
}

/// All keys, as they were a moment ago.
#[derive(Debug)]
pub struct KeyRing {
    store: Arc<dyn KeyStore>,
    config: RingConfig,
    state: Mutex<State>,
    looking: tokio::sync::Mutex<()>,
}

/// What a request or a socket came with, once it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    None,
    Key(String),
}

impl KeyRing {
    /// Knows nothing before [`KeyRing::refresh`].
    pub fn new(store: Arc<dyn KeyStore>, config: RingConfig) -> Arc<Self> {
        Arc::new(Self { store, config, state: Mutex::default(), looking: tokio::sync::Mutex::default() })
    }

    /// Reads all keys.
    ///
    /// # Errors
    /// Why the store cannot be read; what was known stays.
    pub async fn refresh(&self) -> Result<(), String> {
        let alone = self.looking.lock().await;
        self.look(&alone).await
    }

    async fn look(&self, _alone: &tokio::sync::MutexGuard<'_, ()>) -> Result<(), String> {
        let asked_at = Instant::now();
        let read = self.store.keys().await;
        let mut state = self.state.lock();
        state.looked_at = Some(Instant::now());
        match read {
            Ok(keys) => {
                let now = now_ms();
                let good = |key: &&KeyRecord| !key.revoked && key.expires_at_ms.is_none_or(|at| at > now);
                let prefixes = keys.iter().filter(good).map(|key| key.prefix.clone()).collect();
                let keys = keys.into_iter().map(|key| (key.id.clone(), key)).collect();
                state.known = Arc::new(Known { keys, prefixes: Arc::new(prefixes) });
                state.read_at = Some(asked_at);
                Ok(())
            }
            Err(why) => {
                state.why_away.clone_from(&why);
                Err(why)
            }
        }
    }

    /// Reads all keys, unless somebody else does so meanwhile; waits until that may be done again.
    async fn look_again(&self) -> Result<(), String> {
        let asked_at = Instant::now();
        let looked = || self.state.lock().looked_at;
        if let Some(wait) = looked().and_then(|at| LOOK_AT_MOST_EVERY.checked_sub(at.elapsed())) {
            tokio::time::sleep(wait).await;
        }
        let alone = self.looking.lock().await;
        if looked().is_some_and(|at| at > asked_at) {
            return Ok(());
        }
        self.look(&alone).await
    }

    /// Reads the keys now and then, and notes which were used, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut away = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.note_used().await,
                () = tokio::time::sleep(self.config.every) => {}
            }
            match self.refresh().await {
                Ok(()) => {
                    away = false;
                    self.note_used().await;
                }
                Err(why) if !away => {
                    tracing::warn!(
                        why,
                        "the keys of sources cannot be read; those that are known stay good for a while"
                    );
                    away = true;
                }
                Err(_) => {}
            }
        }
    }

    async fn note_used(&self) {
        let due: Vec<(String, i64)> = {
            let mut state = self.state.lock();
            let due = |noted: &Option<Instant>| noted.is_none_or(|at| at.elapsed() >= self.config.note_every);
            let ids = state.used.iter_mut().filter(|(_, (at_ms, noted))| *at_ms > 0 && due(noted));
            ids.map(|(id, (at_ms, noted))| {
                *noted = Some(Instant::now());
                (id.clone(), std::mem::take(at_ms))
            })
            .collect()
        };
        for (id, at_ms) in due {
            if let Err(why) = self.store.used(&id, at_ms).await {
                tracing::debug!(why, id, "the use of a key is not noted");
            }
        }
    }

    /// What is known, if it is not too old.
    fn known(&self, retry_after_s: u64) -> Result<Arc<Known>, Problem> {
        let state = self.state.lock();
        match state.read_at {
            Some(at) if at.elapsed() <= self.config.valid => Ok(Arc::clone(&state.known)),
            _ => {
                let why = if state.why_away.is_empty() { "they were not read yet" } else { &state.why_away };
                let detail = format!("the keys of sources cannot be read: {why}");
                Err(Problem::unavailable(retry_after_s, "keys_away", detail))
            }
        }
    }

    /// Who sends: the key in the head of a request or of the request that opens a socket.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, retry_after_s: u64) -> Result<Credential, Problem> {
        let Some(token) = bearer(headers)? else { return Ok(Credential::None) };
        if !self.known(retry_after_s)?.keys.contains_key(token.id()) {
            // It may have been made a moment ago. If that cannot be seen, what is known decides.
            let _unread = self.look_again().await;
        }
        let known = self.known(retry_after_s)?;
        let record = known.keys.get(token.id());
        // The same work, whether there is such a key or not.
        let kept = record.map_or([0; 32], |record| record.secret_sha256);
        let same = bool::from(token.secret_sha256().ct_eq(&kept));
        let Some(record) = record.filter(|_| same) else {
            return Err(refused("unknown_key", "this key is not known here"));
        };
        good(record)?;
        let mut state = self.state.lock();
        state.used.entry(record.id.clone()).or_default().0 = now_ms();
        Ok(Credential::Key(record.id.clone()))
    }

    /// What it may write now; asked anew for each request and frame, so that a revocation ends sockets too.
    pub(crate) fn source(&self, credential: &Credential, retry_after_s: u64) -> Result<Source, Problem> {
        let known = match self.known(retry_after_s) {
            // Where there were no keys there is none to be revoked: who needs none is not stopped by a database.
            Err(_) if *credential == Credential::None && self.has_none() => Arc::default(),
            known => known?,
        };
        match credential {
            Credential::None if self.config.rule == KeyRule::Required => {
                let detail = "events are taken with a key only";
                Err(refused("key_missing", detail)
                    .hint("`flywheel key create --source PREFIX` makes one; send it as `Authorization: Bearer fw_…`"))
            }
            Credential::None => Ok(Source::Keyless(Arc::clone(&known.prefixes))),
            Credential::Key(id) => {
                let record = known.keys.get(id).ok_or_else(|| refused("unknown_key", "this key is not known here"))?;
                good(record)?;
                Ok(Source::Key { prefix: record.prefix.as_str().into() })
            }
        }
    }

    /// The store was read, and held no key.
    fn has_none(&self) -> bool {
        let state = self.state.lock();
        state.read_at.is_some() && state.known.keys.is_empty()
    }

    #[cfg(test)]
    fn used(&self) -> Vec<String> {
        self.state.lock().used.keys().cloned().collect()
    }
}

fn good(record: &KeyRecord) -> Result<(), Problem> {
    if record.revoked {
        return Err(refused("revoked_key", "this key was revoked"));
    }
    if record.expires_at_ms.is_some_and(|at| at <= now_ms()) {
        return Err(refused("expired_key", "this key has expired"));
    }
    Ok(())
}

/// The key of a head; `None` if there is none.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let malformed = |detail: String| Err(refused("malformed_key", detail));
    if values.next().is_some() {
        return malformed("there are two `Authorization` headers".to_owned());
    }
    // Nothing of it is repeated in an answer or a log.
    let text = value.to_str().unwrap_or_default();
    let Some((scheme, token)) = text.split_once(' ') else {
        return malformed("expected `Authorization: Bearer fw_…`".to_owned());
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return malformed("expected `Authorization: Bearer fw_…`".to_owned());
    }
    match token.trim().parse() {
        Ok(token) => Ok(Some(token)),
        Err(error) => malformed(format!("{error}")),
    }
}

fn refused(reason: &'static str, detail: impl Into<String>) -> Problem {
    let detail = format!("{}; nothing was appended", detail.into());
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "The key is not good", reason, detail)
}

impl Source {
    /// # Errors
    /// A refusal that names the game and the prefix.
    pub fn check(&self, game: &GameId) -> Result<(), crate::Refusal> {
        let forged =
            |why: String| Err(crate::Refusal::new("forged_source", "game_id", format!("`game_id` {game}: {why}")));
        match self {
            Self::Local => Ok(()),
            Self::Keyless(prefixes) => match prefixes.of(game.as_str()) {
                None => Ok(()),
                Some(prefix) => forged(format!("game ids that begin with `{prefix}` are taken with their key only")),
            },
            Self::Key { prefix } if game.as_str().starts_with(&**prefix) => Ok(()),
            Self::Key { prefix } => {
                forged(format!("this key writes game ids that begin with `{prefix}` and no others"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
