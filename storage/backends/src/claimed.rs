//! An archive that is claimed for its tables before anything is done with it: at once, or as soon as it answers.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use flywheel_archive::{ArchiveError, ArchiveErrorKind, ColdStore, Held, Pieces, Put, Readiness, Temper};
use tokio::sync::OnceCell;

use crate::archive::{CLAIM, claim};

/// So long a start waits for an archive before it goes on without.
const PATIENCE: Duration = Duration::from_secs(10);

/// A [`ColdStore`] that puts and reads nothing before it is known to belong to these tables.
pub struct ClaimedArchive {
    inner: Arc<dyn ColdStore>,
    owner: String,
    claimed: OnceCell<()>,
}

impl fmt::Debug for ClaimedArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, claimed) = (self.inner.place(), self.claimed.initialized());
        f.debug_struct("ClaimedArchive").field("place", &place).field("claimed", &claimed).finish_non_exhaustive()
    }
}

impl ClaimedArchive {
    pub(crate) fn new(inner: Arc<dyn ColdStore>, owner: String) -> Self {
        Self { inner, owner, claimed: OnceCell::new() }
    }

    /// Whether it answers, and belongs to these tables; claims it for them the first time.
    ///
    /// # Errors
    /// `Unavailable` if it does not answer, which may pass; all else does not by itself.
    pub async fn check(&self) -> Result<(), ArchiveError> {
        let asked = async {
            if self.claimed.initialized() {
                return self.inner.get(CLAIM).await.map(drop);
            }
            self.claimed().await.map(drop)
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            Err(ArchiveError::new(ArchiveErrorKind::Unavailable, "opening the archive", self.place(), why))
        })
    }

    async fn claimed(&self) -> Result<&Arc<dyn ColdStore>, ArchiveError> {
        self.claimed.get_or_try_init(|| claim(&*self.inner, &self.owner)).await?;
        Ok(&self.inner)
    }
}

#[async_trait]
impl ColdStore for ClaimedArchive {
    async fn put(&self, name: &str, bytes: Bytes, sha256: &str, temper: Temper) -> Result<Put, ArchiveError> {
        self.claimed().await?.put(name, bytes, sha256, temper).await
    }

    async fn head(&self, name: &str) -> Result<Option<Held>, ArchiveError> {
        self.claimed().await?.head(name).await
    }

    async fn stream(&self, name: &str) -> Result<Pieces, ArchiveError> {
        self.claimed().await?.stream(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        self.claimed().await?.list(prefix).await
    }

    async fn thaw(&self, name: &str, days: u32) -> Result<Readiness, ArchiveError> {
        self.claimed().await?.thaw(name, days).await
    }

    async fn prepare(&self) -> Result<Vec<String>, ArchiveError> {
        self.claimed().await?.prepare().await
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

#[cfg(test)]
mod tests {
    use flywheel_archive::{Folder, sha256};

    use super::*;

    fn on(folder: &std::path::Path, owner: &str) -> ClaimedArchive {
        ClaimedArchive::new(Arc::new(Folder::new(folder)), owner.to_owned())
    }

    #[tokio::test]
    async fn an_archive_that_is_away_is_claimed_once_it_is_there_and_holds_nothing_before() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        std::fs::write(&mount, "a file where the folder will be").unwrap();
        let archive = on(&mount.join("cold"), "one");
        for _ in 0..2 {
            assert_eq!(archive.check().await.unwrap_err().kind(), ArchiveErrorKind::Unavailable);
            let put = archive.put("index/a", "x".into(), &sha256(b"x"), Temper::Warm).await;
            assert_eq!(put.unwrap_err().kind(), ArchiveErrorKind::Unavailable);
        }
        std::fs::remove_file(&mount).unwrap();
        // Whatever is asked first claims it.
        assert_eq!(archive.list("").await.unwrap(), [CLAIM]);
        archive.check().await.unwrap();
        let other = on(&mount.join("cold"), "two").check().await.unwrap_err();
        assert_eq!(other.kind(), ArchiveErrorKind::Refused);
        assert!(other.to_string().contains("other tables (one, not two)"), "{other}");
        // A disk that is not mounted any more leaves an empty folder behind.
        std::fs::rename(mount.join("cold"), dir.path().join("gone")).unwrap();
        assert!(archive.check().await.is_err());
    }
}
