//! The newest version on this machine's disk, to start with while the server is away.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use flywheel_events::ModelRef;
use flywheel_policy::MAX_FILE_BYTES;

const NAME_BYTES_MAX: usize = 512;

/// Writes weights and, in front, the line with their name; whole or not at all.
pub(crate) fn write(path: &Path, model: &ModelRef, weights: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    fs::write(&part, [format!("{model}\n").as_bytes(), weights].concat())?;
    fs::rename(part, path)
}

/// What was kept; `None` if there is nothing that could be it.
pub(crate) fn read(path: &Path) -> io::Result<Option<(ModelRef, Vec<u8>)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take((MAX_FILE_BYTES + NAME_BYTES_MAX) as u64).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().take(NAME_BYTES_MAX).position(|&byte| byte == b'\n') else { return Ok(None) };
    let Some(model) = std::str::from_utf8(&bytes[..end]).ok().and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    Ok(Some((model, bytes.split_off(end + 1))))
}
