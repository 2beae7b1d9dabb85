//! The journal of one watched process and its children: how each change can be undone, and when it was safe. Shared, as source, by the
//! library that writes it and by `flywheel-torture`, which reads it after the power went.
//!
//! A record is a header of little-endian numbers, then two byte strings. It is written before its change is
//! made, so a process that is killed between the two leaves a record that undoes nothing.

/// Folder whose files are watched; canonical.
pub const ROOT: &str = "FLYWHEEL_POWERCUT_ROOT";
/// File that the records are appended to; outside of the folder.
pub const JOURNAL: &str = "FLYWHEEL_POWERCUT_JOURNAL";
/// What the processes that write a journal share lies in a file of the journal's name and this.
pub const SHARED: &str = ".shared";
/// Folder, on the same file system and outside of the watched one, that keeps what was unlinked or replaced.
pub const STASH: &str = "FLYWHEEL_POWERCUT_STASH";
/// Longest time that a sync takes longer than it would, in microseconds; none if absent. A slow disk is cut more often
/// between a change and its sync.
pub const SLOW: &str = "FLYWHEEL_POWERCUT_SLOW_US";

pub const HEADER_BYTES: usize = 40;
pub const MAGIC: u32 = 0x4657_5043;

/// What a record says; `subject` is an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Bytes of file `subject` are written at `a`, where the file had size `b`. `first`: what the new bytes replace;
    /// `second`: how many there are, eight bytes.
    Data = 1,
    /// File `subject` gets size `a`, it had `b`. `first`: what is cut off.
    Size = 2,
    /// File or folder `subject` was synced: its first `a` records are safe (of all records of the journal).
    Sync = 3,
    /// `first` is a new file in folder `subject`.
    Create = 4,
    /// `first` is a new name in folder `subject`.
    Link = 5,
    /// The first `a` bytes of `first` are the old path, the rest is the new one, in folder `subject`. `second`: the name in
    /// the stash of what was replaced; empty if nothing was.
    Rename = 6,
    /// `first` in folder `subject` is gone; `second` is its name in the stash.
    Unlink = 7,
    /// `first` is a new folder in folder `subject`.
    MakeDir = 8,
    /// The record before was of a change that failed.
    Cancel = 9,
    /// Everything was synced: the first `a` records are safe.
    SyncAll = 10,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u32,
    pub subject: u64,
    pub a: u64,
    pub b: u64,
    pub first: u32,
    pub second: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.kind.to_le_bytes());
        out[8..16].copy_from_slice(&self.subject.to_le_bytes());
        out[16..24].copy_from_slice(&self.a.to_le_bytes());
        out[24..32].copy_from_slice(&self.b.to_le_bytes());
        out[32..36].copy_from_slice(&self.first.to_le_bytes());
        out[36..40].copy_from_slice(&self.second.to_le_bytes());
        out
    }
}
