//! Keys with which programs outside hand in events: who they are, what they may write, whether they still may.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    CatalogError, CatalogErrorKind, Clock,
    database::{Database, Value},
    runs::{failed, without_nul},
};

/// Keys that one catalog holds at most; the doors keep all of them in memory.
pub const SOURCE_KEYS_MAX: usize = 10_000;
/// `last_used_ms` is written at most this often.
const USED_EVERY_MS: i64 = 60_000;

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceKey {
    pub id: String,
    /// For people.
    pub name: Option<String>,
    /// Game ids that it may write begin so.
    pub prefix: String,
    pub created_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    pub revoked_at_ms: Option<i64>,
    /// Of the last request with it, or up to a minute before that.
    pub last_used_ms: Option<i64>,
}

/// A key to be kept.
#[derive(Clone)]
pub struct NewSourceKey {
    pub id: String,
    pub name: Option<String>,
    pub prefix: String,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    pub expires_at_ms: Option<i64>,
}

/// A key with what its secret is compared with.
#[derive(Clone)]
pub struct KeptSourceKey {
    pub key: SourceKey,
    pub secret_sha256: [u8; 32],
}

impl fmt::Debug for NewSourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSourceKey").field("id", &self.id).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeptSourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptSourceKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A row as it is stored.
pub(crate) struct KeyColumns {
    pub id: String,
    pub name: Option<String>,
    pub prefix: String,
    pub secret_sha256: String,
    pub created_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    pub revoked_at_ms: Option<i64>,
    pub last_used_ms: Option<i64>,
}

/// The table of keys. Cheap to clone.
#[derive(Clone)]
pub struct SourceKeys {
    database: Database,
    clock: Clock,
}

impl fmt::Debug for SourceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceKeys").finish_non_exhaustive()
    }
}

impl SourceKeys {
    pub(crate) fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// Keeps a key.
    ///
    /// # Errors
    /// `Conflict` if there is one with that id, or [`SOURCE_KEYS_MAX`] of them.
    pub async fn create(&self, new: &NewSourceKey) -> Result<SourceKey, CatalogError> {
        const OPERATION: &str = "keeping key";
        let statement = format!(
            "INSERT INTO source_keys (id, name, prefix, secret_sha256, created_at_ms, expires_at_ms) \
             SELECT $1, CAST($2 AS TEXT), $3, $4, $5, CAST($6 AS BIGINT) \
             WHERE (SELECT count(*) FROM source_keys) < {SOURCE_KEYS_MAX} \
             ON CONFLICT (id) DO NOTHING RETURNING *"
        );
        let digest: String = new.secret_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let values = vec![
            new.id.as_str().into(),
            new.name.clone().map(without_nul).into(),
            new.prefix.as_str().into(),
            digest.into(),
            (self.clock)().into(),
            new.expires_at_ms.into(),
        ];
        let made = self.rows(OPERATION, &new.id, statement, values).await?.pop();
        made.map(|kept| kept.key).ok_or_else(|| {
            let why = format!("there is one with that id already, or there are {SOURCE_KEYS_MAX} keys");
            CatalogError::new(CatalogErrorKind::Conflict, OPERATION, &new.id, why)
        })
    }

    /// Newest first, those that ended too.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn list(&self) -> Result<Vec<SourceKey>, CatalogError> {
        Ok(self.all().await?.into_iter().map(|kept| kept.key).collect())
    }

    /// As [`SourceKeys::list`], with what secrets are compared with.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn all(&self) -> Result<Vec<KeptSourceKey>, CatalogError> {
        let statement =
            format!("SELECT * FROM source_keys ORDER BY created_at_ms DESC, id DESC LIMIT {SOURCE_KEYS_MAX}");
        self.rows("listing", "keys", statement, Vec::new()).await
    }

    /// Ends a key for ever. Again is harmless: the first moment stays.
    ///
    /// # Errors
    /// `NotFound` if there is no such key.
    pub async fn revoke(&self, id: &str) -> Result<SourceKey, CatalogError> {
        const OPERATION: &str = "revoking key";
        let statement =
            "UPDATE source_keys SET revoked_at_ms = COALESCE(revoked_at_ms, $1) WHERE id = $2 RETURNING *".to_owned();
        let shown: String = id.chars().take(64).collect();
        if id.contains('\0') {
            return Err(CatalogError::new(CatalogErrorKind::NotFound, OPERATION, "?", "that is not the id of a key"));
        }
        let values = vec![(self.clock)().into(), id.into()];
        let revoked = self.rows(OPERATION, &shown, statement, values).await?.pop();
        revoked
            .map(|kept| kept.key)
            .ok_or_else(|| CatalogError::new(CatalogErrorKind::NotFound, OPERATION, shown, "there is no such key"))
    }

    /// A request came with it at `at_ms`; noted if the last note is a minute old.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn used(&self, id: &str, at_ms: i64) -> Result<(), CatalogError> {
        let statement = format!(
            "UPDATE source_keys SET last_used_ms = $1 \
             WHERE id = $2 AND (last_used_ms IS NULL OR last_used_ms <= $1 - {USED_EVERY_MS}) RETURNING *"
        );
        self.rows("noting the use of key", id, statement, vec![at_ms.into(), id.into()]).await.map(drop)
    }

    async fn rows(
        &self,
        operation: &'static str,
        target: &str,
        statement: String,
        values: Vec<Value>,
    ) -> Result<Vec<KeptSourceKey>, CatalogError> {
        let rows = self.database.keys(statement, values).await.map_err(failed(operation, target))?;
        rows.into_iter().map(|row| kept(row, operation)).collect()
    }
}

fn kept(row: KeyColumns, operation: &'static str) -> Result<KeptSourceKey, CatalogError> {
    let byte = |at: usize| row.secret_sha256.get(2 * at..2 * at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let mut secret_sha256 = [0; 32];
    for (at, to) in secret_sha256.iter_mut().enumerate() {
        *to = byte(at).ok_or_else(|| {
            CatalogError::new(CatalogErrorKind::Conflict, operation, &row.id, "its row is damaged; revoke it by hand")
        })?;
    }
    let key = SourceKey {
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        revoked_at_ms: row.revoked_at_ms,
        last_used_ms: row.last_used_ms,
    };
    Ok(KeptSourceKey { key, secret_sha256 })
}
