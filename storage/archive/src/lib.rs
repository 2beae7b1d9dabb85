//! Where what is sealed goes: objects that are written once, read back rarely, and never changed.
//!
//! A [`ColdStore`] is a seam like the log: [`Folder`] is a local one, `flywheel-archive-s3` one in a bucket. What lies in it
//! is never overwritten and never removed by us, so the key of an archive needs no right to delete.
//!
//! What is guaranteed: a put that returned is on the medium that the store promises; of two puts of one name one wins, and
//! the other is told; what [`keep`] returned from has been looked at, by size and SHA-256, after it was written.
//!
//! ```
//! # tokio_test(async {
//! use flywheel_archive::{ColdStore, Folder, Temper, keep, sha256};
//!
//! let dir = std::env::temp_dir().join(format!("flywheel-doc-{}", uuid::Uuid::new_v4()));
//! let store = Folder::new(&dir);
//! keep(&store, "cold/a", "bytes".into(), Temper::Cold).await.unwrap();
//! assert_eq!(store.head("cold/a").await.unwrap().unwrap().bytes, 5);
//! assert_eq!(flywheel_archive::read(&store, "cold/a", &sha256(b"bytes")).await.unwrap(), "bytes");
//! # std::fs::remove_dir_all(&dir).unwrap();
//! # });
//! # fn tokio_test(f: impl Future<Output = ()>) {
//! #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
//! # }
//! ```

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod folder;
mod store;
#[cfg(feature = "conformance")]
pub mod testing;

pub use error::{ArchiveError, ArchiveErrorKind};
pub use folder::Folder;
pub use store::{ColdStore, Held, Pieces, Put, Readiness, Temper, checked, keep, read, sha256, verify};
