//! Loaded into a process with `LD_PRELOAD`, keeps a journal of what it changes below a folder and of what it syncs, so
//! that after a `kill -9` everything that was not synced can be taken back: a cut of power, made afterwards.
//!
//! It stands between the process and the C library's `write`, `pwrite`, `writev`, `ftruncate`, `fsync`, `fdatasync`, `sync`,
//! `open`, `rename`, `link`, `unlink`, `mkdir` and their kin, and changes nothing that they do. What it does not see:
//! mapped memory, `fallocate`, `copy_file_range`, `sendfile`, `io_uring`, `stdio`, and that `O_SYNC` makes a write safe.
//! Children of the watched process write the same journal. [`format`] says what it holds; `flywheel-torture` reads it.
//!
//! Every real call goes to the kernel directly, never through the C library: that would lead back here.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "a function of the C library's name does what that does with the caller's arguments; each module says so once"
)]

mod descriptors;
pub mod format;
mod journal;
mod names;
mod paths;
mod sizes;
mod syncs;
mod writes;
