use std::fmt;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ArchiveError, ArchiveErrorKind};

/// How an object is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// In the class that the configuration names; reading it may cost time and money.
    Cold,
    /// Readable at once, always: small things that say what there is.
    Warm,
}

/// What came of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Done,
    /// Something of this name is there already, and stays as it is.
    There,
}

/// Whether an object can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    Ready,
    /// Asked for; it takes minutes to hours.
    Thawing,
    /// It has to be asked for.
    Frozen,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Thawing => "thawing",
            Self::Frozen => "frozen",
        })
    }
}

/// What a store says of an object without handing it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub bytes: u64,
    /// In lower-case hexadecimal, where the store itself has computed it.
    pub sha256: Option<String>,
    /// Its storage class, where the store has any.
    pub class: Option<String>,
    pub readiness: Readiness,
}

/// The bytes of an object as they come, in order. One that is cut short ends in an error.
pub type Pieces = BoxStream<'static, Result<Bytes, ArchiveError>>;

/// Objects by name, written once.
///
/// A name is a path of plain parts (ASCII letters, digits, `.`, `_`, `-` and `=`) between slashes. When a put returns, the
/// object survives what the store says it survives, on a local disk a loss of power. Implementations may try again what
/// is safe to try again; callers see `Unavailable` when that did not help.
#[async_trait]
pub trait ColdStore: fmt::Debug + Send + Sync + 'static {
    /// Stores `bytes`, whose SHA-256 is `sha256`, unless something of this name is there.
    ///
    /// After `Unavailable` it may be there or not.
    async fn put(&self, name: &str, bytes: Bytes, sha256: &str, temper: Temper) -> Result<Put, ArchiveError>;

    /// What is known of an object, `None` if there is none.
    async fn head(&self, name: &str) -> Result<Option<Held>, ArchiveError>;

    /// The bytes of an object, piece by piece: a few of them are in memory, however large it is.
    ///
    /// # Errors
    /// `NotFound`; `Frozen` if it has to be thawed first.
    async fn stream(&self, name: &str) -> Result<Pieces, ArchiveError>;

    /// All bytes of an object that fits in memory.
    ///
    /// # Errors
    /// As [`ColdStore::stream`], and as its pieces.
    async fn get(&self, name: &str) -> Result<Bytes, ArchiveError> {
        let mut pieces = self.stream(name).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The names that begin with `prefix`, in ascending order.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArchiveError>;

    /// Asks for an object to be readable for so many days; again is harmless. Says how far it is.
    async fn thaw(&self, name: &str, days: u32) -> Result<Readiness, ArchiveError>;

    /// Sees to what the store does by itself with objects as they age, once before anything is put. Returns what the
    /// operator should know.
    async fn prepare(&self) -> Result<Vec<String>, ArchiveError>;

    /// Where it is, for people.
    fn place(&self) -> String;
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Puts `bytes` and sees that they are there: size and SHA-256 as the store tells them, or else read back.
///
/// Whether they were there already makes no difference, as long as they are the same.
///
/// # Errors
/// `Corrupt` if something else lies there, now or before; and what the store may bring.
pub async fn keep(store: &dyn ColdStore, name: &str, bytes: Bytes, temper: Temper) -> Result<Put, ArchiveError> {
    let (sha, len) = (sha256(&bytes), bytes.len() as u64);
    let put = store.put(name, bytes, &sha, temper).await?;
    verify(store, name, Some(len), &sha).await?;
    Ok(put)
}

/// Sees that an object of this SHA-256, and of this size where it is known, is there.
///
/// # Errors
/// As [`keep`]; `NotFound` if there is none.
pub async fn verify(store: &dyn ColdStore, name: &str, bytes: Option<u64>, sha: &str) -> Result<(), ArchiveError> {
    const WHAT: &str = "verifying";
    let Some(held) = store.head(name).await? else {
        let why = format!("it was put to {} and is not there", store.place());
        return Err(ArchiveError::new(ArchiveErrorKind::NotFound, WHAT, name, why));
    };
    if let Some(bytes) = bytes.filter(|bytes| *bytes != held.bytes) {
        let why = format!("it has {} bytes, not {bytes}; keep the table as it is and look at the archive", held.bytes);
        return Err(ArchiveError::new(ArchiveErrorKind::Corrupt, WHAT, name, why));
    }
    let found = match held.sha256 {
        Some(found) => found,
        None if held.readiness == Readiness::Ready => hash(store, name).await?,
        None => {
            let why = "the store tells no checksum, and its class cannot be read back; choose another `storage_class`";
            return Err(ArchiveError::new(ArchiveErrorKind::Refused, WHAT, name, why));
        }
    };
    same(name, &found, sha)
}

async fn hash(store: &dyn ColdStore, name: &str) -> Result<String, ArchiveError> {
    let (mut pieces, mut hasher) = (store.stream(name).await?, Sha256::new());
    while let Some(piece) = pieces.try_next().await? {
        hasher.update(&piece);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// The pieces of the object that was put under this SHA-256; they end in an error if it is another one, so what was made of
/// them counts only once they have ended without.
pub fn checked(pieces: Pieces, name: &str, sha: &str) -> Pieces {
    let state = Some((pieces, Sha256::new(), name.to_owned(), sha.to_owned()));
    futures::stream::unfold(state, |state| async move {
        let (mut pieces, mut hasher, name, sha) = state?;
        match pieces.next().await {
            Some(Ok(piece)) => {
                hasher.update(&piece);
                Some((Ok(piece), Some((pieces, hasher, name, sha))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => same(&name, &hex::encode(hasher.finalize()), &sha).err().map(|error| (Err(error), None)),
        }
    })
    .boxed()
}

/// Reads an object and sees that it is the one that was put.
///
/// # Errors
/// `Corrupt` if it is another; and as [`ColdStore::get`].
pub async fn read(store: &dyn ColdStore, name: &str, sha: &str) -> Result<Bytes, ArchiveError> {
    let bytes = store.get(name).await?;
    same(name, &sha256(&bytes), sha)?;
    Ok(bytes)
}

fn same(name: &str, found: &str, wanted: &str) -> Result<(), ArchiveError> {
    if found == wanted {
        return Ok(());
    }
    let why = format!("its SHA-256 is {found}, not {wanted}; nothing was taken from it");
    Err(ArchiveError::new(ArchiveErrorKind::Corrupt, "verifying", name, why))
}

/// Whether `name` is made of plain parts.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.bytes().all(|b| b == b'.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b))
    };
    name.split('/').all(plain)
}
