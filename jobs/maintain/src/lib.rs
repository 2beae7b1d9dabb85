//! Jobs that keep the tables fit and prove them right.
//!
//! [`Maintain`] merges the small files that the flows leave every second and removes what nobody needs any more.
//! [`Trim`] takes from the log what is old and in the tables.
//! [`audit`] reads the whole log and the whole tables and compares them game by game: every event of the log is in
//! the table once, with the same content; every transition that a closed game must give is there, and no other.
//! It shares no code with the flows that it checks. [`check_files`] compares every byte of the tables with its checksum.
//! [`Archive`] moves whole days of the table `events` to where they are cheap to keep, and back; [`StreamArchive`] keeps what
//! [`Trim`] takes from the log.
//! [`DeadLetters`] lists the records that no flow could use, and puts those back into the log that decode by now.

mod acks;
mod archive;
mod audit;
mod dead_letters;
mod files;
mod games;
mod maintain;
pub mod metrics;
mod seqs;
mod stored;
mod trim;

pub use acks::{AckJournalError, acknowledged};
pub use archive::{
    Archive, ArchiveOptions, ArchiveReport, Archived, ArchivingConfig, ArchivingError, Day, DayReport, DayState,
    DayWaits, Kept, Restored, Segment, StreamArchive,
};
pub use audit::{AuditConfig, AuditError, AuditReport, AuditTotals, GameAudit, audit};
pub use dead_letters::{
    DeadLetters, Letter, LetterCounts, LetterFilter, LetterId, LetterList, NotAPosition, ReplayError, ReplayReport,
    Stays, Which,
};
pub use files::{FilesChecked, check_files};
pub use maintain::{Maintain, MaintainConfig, MaintainStats, compact};
pub use trim::{Trim, TrimConfig, TrimError};

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
