//! Files of a checkpoint, and the parts that they are sent in.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path as FsPath,
};

use bytes::Bytes;

/// Longest object of a file; no more of one is in memory.
const PART_BYTES: u64 = 8 << 20;
/// Files that a checkpoint may have.
pub(super) const FILES: usize = 64;

/// Start and length of each part of a file; an empty file has one.
pub(super) fn parts(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes.div_ceil(PART_BYTES).max(1)).map(move |part| {
        let start = part * PART_BYTES;
        (start, (bytes - start).min(PART_BYTES))
    })
}

/// So many bytes from there on.
pub(super) fn read_part(path: &FsPath, start: u64, length: u64) -> io::Result<Bytes> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut part = vec![0; length as usize];
    file.read_exact(&mut part)?;
    Ok(part.into())
}

/// Files of a folder, by name, with their lengths.
pub(super) async fn files_of(dir: &FsPath) -> io::Result<Vec<(String, u64)>> {
    let dir = dir.to_owned();
    blocking(move || {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().filter(|name| is_plain(name));
            let name =
                name.ok_or_else(|| io::Error::other(format!("{:?} is no name for a file", entry.file_name())))?;
            files.push((name, entry.metadata()?.len()));
        }
        files.sort();
        if files.is_empty() || files.len() > FILES {
            return Err(io::Error::other(format!("it has {} files, not 1 to {FILES}", files.len())));
        }
        Ok(files)
    })
    .await
}

/// Whether a name leads out of no folder.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// The fence in a folder's name; `None` if it is none of ours.
pub(super) fn fence_of(folder: &str) -> Option<i64> {
    let mut parts = folder.strip_prefix("step-")?.split('-');
    let (_, fence) = (parts.next()?, parts.next()?);
    fence.parse().ok()
}

/// File work on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
