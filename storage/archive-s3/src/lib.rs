//! An archive in a bucket: the control path that plain object storage has no words for.
//!
//! Objects are put into a storage class, a lifecycle rule moves them on as they age, and what has to be thawed is asked for
//! with `RestoreObject`. Everything goes through `aws-sdk-s3`, which lives in this crate and nowhere else.
//!
//! What is guaranteed: an object is put with `If-None-Match: *`, so none is ever overwritten, and with its SHA-256, which
//! the store checks before it answers. Nothing is removed: the key needs to list, get and put, to read and write the
//! bucket's lifecycle where a rule is configured, and to restore where the class asks for it.

mod error;
mod keys;
mod lifecycle;
mod settings;
mod store;

pub use keys::{KeySource, Keys};
pub use settings::{S3Settings, StorageClassError, class};
pub use store::S3Archive;
