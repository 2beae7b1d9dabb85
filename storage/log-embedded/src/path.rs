//! Folders that must outlive a loss of power, and sockets in folders with long names.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// Socket addresses hold 108 bytes, with the closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// Makes entries of `dir` durable. Without it a new file can be gone after a loss of power, synced or not.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// A socket's path in a form that fits a socket address: through its open folder where it is too long.
#[derive(Debug)]
pub struct Reachable {
    path: PathBuf,
    _folder: Option<File>,
}

impl Reachable {
    /// # Errors
    /// If the path is too long and its folder cannot be opened.
    pub fn new(socket: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Self { path: socket.to_owned(), _folder: None });
        };
        if socket.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path: socket.to_owned(), _folder: None });
        }
        let folder = File::open(folder)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
