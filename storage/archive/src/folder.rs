//! An archive in a local folder, or on a disk that is mounted there.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{ArchiveError, ArchiveErrorKind, ColdStore, Held, Pieces, Put, Readiness, Temper, store::is_plain};

/// Files below a folder. A put is on disk when it returns: file synced, then named, then its folder synced.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

/// Read at once.
const PIECE_BYTES: u64 = 256 << 10;
/// Ends the names of files that are being written; a killed writer leaves one, and nobody takes it for an object.
const STAGED: &str = "#";

impl Folder {
    /// Made when first written to.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, operation: &'static str, name: &str) -> Result<PathBuf, ArchiveError> {
        if is_plain(name) {
            return Ok(self.root.join(name));
        }
        Err(ArchiveError::new(ArchiveErrorKind::Internal, operation, name, "it is no name of an object"))
    }

    fn put_blocking(path: &Path, bytes: &Bytes) -> std::io::Result<Put> {
        let folder = path.parent().expect("an object lies in a folder");
        create_folder(folder)?;
        if path.exists() {
            return Ok(Put::There);
        }
        let staged = folder.join(format!("{}{STAGED}", uuid::Uuid::new_v4().simple()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&staged)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::hard_link(&staged, path)
        })();
        // Under its name it stays, without one it is litter.
        let _ = fs::remove_file(&staged);
        let put = match written {
            Ok(()) => Put::Done,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Put::There,
            Err(error) => return Err(error),
        };
        // Also where somebody else has named it: whether its folder is synced by now is not known here.
        File::open(folder)?.sync_all()?;
        Ok(put)
    }

    fn list_blocking(root: &Path, prefix: &str) -> std::io::Result<Vec<String>> {
        // The deepest folder that holds all of them.
        let (above, _) = prefix.rsplit_once('/').unwrap_or_default();
        let mut names = Vec::new();
        let mut folders = vec![(root.join(above), above.to_owned())];
        while let Some((folder, name)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let file_name = entry.file_name();
                let Some(last) = file_name.to_str().filter(|last| is_plain(last)) else { continue };
                let full = if name.is_empty() { last.to_owned() } else { format!("{name}/{last}") };
                if entry.file_type()?.is_dir() {
                    folders.push((entry.path(), full));
                } else if full.starts_with(prefix) {
                    names.push(full);
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Creates the folder where it is not, and syncs its name and those above it: also where it is there already, since whoever
/// made it may have been killed before that.
fn create_folder(folder: &Path) -> std::io::Result<()> {
    let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    create_folder(parent)?;
    let is_there = folder.is_dir();
    if !is_there
        && let Err(error) = fs::create_dir(folder)
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        // Far above our own, folders may be others', who see to them.
        Err(error)
            if is_there && matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

fn failed(operation: &'static str, path: &Path, error: std::io::Error) -> ArchiveError {
    let kind = match error.kind() {
        ErrorKind::NotFound => ArchiveErrorKind::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ArchiveErrorKind::Refused,
        _ => ArchiveErrorKind::Unavailable,
    };
    ArchiveError::new(kind, operation, path.display(), error)
}

/// File work on a thread that may wait.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    path: PathBuf,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, ArchiveError> {
    let at = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    match done {
        Ok(result) => result.map_err(|error| failed(operation, &at, error)),
        Err(error) => Err(ArchiveError::new(ArchiveErrorKind::Internal, operation, at.display(), error)),
    }
}

#[async_trait]
impl ColdStore for Folder {
    async fn put(&self, name: &str, bytes: Bytes, _sha256: &str, _temper: Temper) -> Result<Put, ArchiveError> {
        let path = self.path("writing", name)?;
        blocking("writing", path, move |path| Self::put_blocking(path, &bytes)).await
    }

    async fn head(&self, name: &str) -> Result<Option<Held>, ArchiveError> {
        let path = self.path("looking at", name)?;
        let found = blocking("looking at", path, |path| match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        });
        Ok(found.await?.map(|bytes| Held { bytes, sha256: None, class: None, readiness: Readiness::Ready }))
    }

    async fn stream(&self, name: &str) -> Result<Pieces, ArchiveError> {
        let path = self.path("reading", name)?;
        let file = blocking("reading", path.clone(), |path| File::open(path)).await?;
        let pieces = futures::stream::try_unfold(file, move |mut file| {
            let path = path.clone();
            async move {
                blocking("reading", path, move |_| {
                    let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
                    Read::take(&mut file, PIECE_BYTES).read_to_end(&mut piece)?;
                    Ok((!piece.is_empty()).then(|| (Bytes::from(piece), file)))
                })
                .await
            }
        });
        Ok(pieces.boxed())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        let prefix = prefix.to_owned();
        blocking("listing", self.root.clone(), move |root| Self::list_blocking(root, &prefix)).await
    }

    async fn thaw(&self, name: &str, _days: u32) -> Result<Readiness, ArchiveError> {
        match self.head(name).await? {
            Some(held) => Ok(held.readiness),
            None => Err(ArchiveError::new(ArchiveErrorKind::NotFound, "thawing", name, "there is no such object")),
        }
    }

    async fn prepare(&self) -> Result<Vec<String>, ArchiveError> {
        blocking("opening", self.root.clone(), create_folder).await.map(|()| Vec::new())
    }

    fn place(&self) -> String {
        format!("file:{}", self.root.display())
    }
}
