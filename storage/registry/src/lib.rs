//! Model versions, where they came from, and which of them is champion.
//!
//! Everything is an object that is written once: `blobs/{sha256}`, `models/{base}/versions/{n}.json` (the card),
//! `models/{base}/aliases/{alias}/{revision}.json`. The newest revision is the alias; moving it is creating the
//! next one, which only one writer can. So compare-and-set works alike on a disk, in memory and on S3.
//!
//! Guarantees: whoever sees a card or an alias can read its blob; a version that fails hash, shape or finite-number
//! check is never returned; a publisher killed between any two steps leaves the old state or the new one.

mod card;
mod error;
mod objects;
mod registry;
mod watch;

pub use card::{AliasState, Card, NewVersion};
pub use error::{RegistryError, RegistryErrorKind};
pub use registry::Registry;
