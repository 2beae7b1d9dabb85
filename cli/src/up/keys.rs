//! The catalog's keys, as the doors ask for them.

use flywheel_catalog::SourceKeys;
use flywheel_ingest::{KeyRecord, KeyStore};
use futures::{FutureExt, future::BoxFuture};

/// Keys of the catalog.
#[derive(Debug)]
pub struct CatalogKeys(pub SourceKeys);

impl KeyStore for CatalogKeys {
    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, String>> {
        async {
            let all = self.0.all().await.map_err(|error| error.to_string())?;
            let record = |kept: flywheel_catalog::KeptSourceKey| KeyRecord {
                id: kept.key.id,
                prefix: kept.key.prefix,
                secret_sha256: kept.secret_sha256,
                expires_at_ms: kept.key.expires_at_ms,
                revoked: kept.key.revoked_at_ms.is_some(),
            };
            Ok(all.into_iter().map(record).collect())
        }
        .boxed()
    }

    fn used<'a>(&'a self, id: &'a str, at_ms: i64) -> BoxFuture<'a, Result<(), String>> {
        async move { self.0.used(id, at_ms).await.map_err(|error| error.to_string()) }.boxed()
    }
}
