//! Delta tables on an object store: appended exactly once, read at any version, compacted in place.
//!
//! A [`Lake`] is a folder (or a bucket's prefix) with one Delta table for each [`TableName`]. Every append may
//! carry *positions*: application ids with how far their source has been taken. Rows and positions go into one
//! commit, and a commit happens only while the positions in the table are those that the writer started from.
//! So a writer that crashes, that is told nothing, or that meets a second copy of itself adds no row twice.
//!
//! Where several processes may write for an application id, they also hold *fences* ([`Table::claim`]): a commit with a
//! fence that somebody else has claimed since is refused, so a writer that was stopped and goes on adds nothing.
//!
//! What is guaranteed: a reader sees whole commits; a version never changes; an append that returned survives a
//! crash, on local disk also a loss of power; a table of a newer format is refused before anything is written.
//!
//! ```
//! # tokio_test(async {
//! use flywheel_lake::{Lake, ScanOptions};
//! use flywheel_tables::{EventsBuilder, TableName};
//! use flywheel_events::{Event, GameId, System};
//!
//! let dir = std::env::temp_dir().join(format!("flywheel-doc-{}", std::process::id()));
//! let lake = Lake::local(&dir).unwrap();
//! let mut rows = EventsBuilder::new();
//! rows.push(&Event::new(System::Tank, "tank.tick", GameId::new("g").unwrap(), 0, 0), 0, 7, 1_700_000_000_000);
//! let table = lake.table(TableName::Events);
//! table.append(vec![rows.finish()], &[("land/fw.tank.events/0".into(), 7)]).await.unwrap();
//! assert_eq!(table.position("land/fw.tank.events/0").await.unwrap(), Some(7));
//! assert_eq!(table.scan(ScanOptions::default()).await.unwrap()[0].num_rows(), 1);
//! # std::fs::remove_dir_all(&dir).unwrap();
//! # });
//! # fn tokio_test(f: impl Future<Output = ()>) {
//! #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f)
//! # }
//! ```

mod append;
mod chunk;
mod commit;
mod compact;
mod config;
mod encode;
mod error;
mod fence;
mod file;
mod groups;
mod history;
mod lake;
mod local;
mod matches;
pub mod metrics;
mod numbers;
mod pack;
mod parts;
mod places;
mod scan;
mod staged;
mod state;
mod sums;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod texts;
mod upkeep;
mod words;

pub use append::{Advance, Commit, Expected};
pub use compact::{CompactOptions, CompactReport};
pub use config::LakeConfig;
pub use error::{LakeError, LakeErrorKind};
pub use file::DataFile;
pub use flywheel_tables::TableName;
pub use history::HistoryEntry;
pub use lake::Lake;
pub use local::DurableFileSystem;
pub use parts::StoredFile;
pub use scan::{Range, ScanOptions};
pub use sums::{NotSums, Sums};
pub use table::Table;
pub use upkeep::VacuumReport;

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
