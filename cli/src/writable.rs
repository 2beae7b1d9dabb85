//! Folders and files that the program must be able to write, asked for before anything starts: one message that names the
//! folder, the setting and the fix.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use flywheel_backends::BackendUrls;

use crate::{
    config::Config,
    exit::{Code, Failure},
};

/// The setting of everything that lies in the data folder.
pub const DATA: &str = "--data DIR (`data` in flywheel.toml)";

/// Something that is written to, and the setting that says where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    what: &'static str,
    path: PathBuf,
    setting: &'static str,
}

/// Everything below the data folder, and beside it what is configured to lie in other folders.
///
/// # Errors
/// With the first place that the user or the file system does not let us write to.
pub fn check(config: &Config) -> Result<(), Failure> {
    all_writable(places(config, &crate::systems::urls(config)))
}

/// As [`check`], for a program that writes nothing but the tables.
///
/// # Errors
/// As [`check`].
pub fn check_tables(config: &Config) -> Result<(), Failure> {
    all_writable(tables(config))
}

/// As [`check`], for a program that writes nothing but runs and keys.
///
/// # Errors
/// As [`check`].
pub fn check_catalog(config: &Config) -> Result<(), Failure> {
    all_writable(catalog(config))
}

fn all_writable(places: Vec<Place>) -> Result<(), Failure> {
    places.into_iter().try_for_each(|Place { what, path, setting }| {
        is_writable(&path).map_err(|error| unwritable(what, &path, setting, error))
    })
}

fn places(config: &Config, urls: &BackendUrls) -> Vec<Place> {
    let below = |what, name: &str| Place { what, path: config.data.join(name), setting: DATA };
    let mut places = tables(config);
    places.extend([below("the spool of the doors", "spool"), below("the spill of the games", "spill")]);
    if let Ok(path) = urls.embedded_log() {
        let setting = if config.stream.url == "embedded:" { DATA } else { "`stream.url`" };
        places.push(Place { what: "the folder of the event log", path, setting });
    }
    if config.store.is_local() {
        places.push(below("the folder of the models", "registry"));
    }
    places.extend(catalog(config));
    places
}

fn tables(config: &Config) -> Vec<Place> {
    let of = |what, path| Place { what, path, setting: DATA };
    let mut places = vec![of("the data folder", config.data.clone())];
    if config.store.is_local() {
        places.push(of("the folder of the tables", config.data.join("lake")));
    }
    places
}

/// The file of runs and keys and, since SQLite makes files beside it, its folder.
fn catalog(config: &Config) -> Vec<Place> {
    let Some(path) = config.catalog.file(&config.data) else { return Vec::new() };
    let setting = if config.catalog.url == "sqlite:" { DATA } else { "`catalog.url`" };
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    vec![
        Place { what: "the folder of the catalog", path: folder, setting },
        Place { what: "the catalog", path, setting },
    ]
}

/// Of what is not there yet, the nearest folder above it is asked.
fn is_writable(path: &Path) -> io::Result<()> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let mode = if there.is_dir() { libc::W_OK | libc::X_OK } else { libc::W_OK };
    let there = CString::new(there.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that lives through the call.
    if unsafe { libc::access(there.as_ptr(), mode) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the user or the file system forbids it: nothing that passes by itself.
pub fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// `path`, or something in it, was not written: what is to be done about it.
pub fn unwritable(what: &str, path: &Path, setting: &str, error: io::Error) -> Failure {
    let hint = fix(&error, setting);
    let message = format!("{what} `{}` cannot be written", path.display());
    Failure::new(Code::Failure, anyhow::Error::from(error).context(message)).hint(hint)
}

/// As [`unwritable`], for what lies in the data folder.
pub fn data_unwritable(path: &Path, error: io::Error) -> Failure {
    unwritable("the data folder's file", path, DATA, error)
}

/// What to do about an error of a store that `setting` names; nothing if it has nothing to do with rights.
pub fn hint_of(error: &anyhow::Error, setting: &str) -> Option<String> {
    if let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).filter(|e| is_denied(e)) {
        return Some(fix(error, setting));
    }
    // Stores that do not hand on what the system said, but say it.
    let text = format!("{error:#}");
    let as_said = [
        ("Read-only file system", io::ErrorKind::ReadOnlyFilesystem),
        ("Permission denied", io::ErrorKind::PermissionDenied),
        ("attempt to write a readonly database", io::ErrorKind::PermissionDenied),
        ("unable to open database file", io::ErrorKind::PermissionDenied),
    ];
    let (_, kind) = as_said.into_iter().find(|(said, _)| text.contains(said))?;
    Some(fix(&io::Error::from(kind), setting))
}

fn fix(error: &io::Error, setting: &str) -> String {
    // SAFETY: it only asks, and cannot fail.
    let user = unsafe { libc::geteuid() };
    let mend = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system for writing".to_owned(),
        io::ErrorKind::PermissionDenied => format!("let this user (uid {user}) write there (`chown`, `chmod u+w`)"),
        _ => "look at what the system says of it".to_owned(),
    };
    format!("{mend}, or name another place with {setting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_asked_for_under_the_setting_that_names_it() {
        let mut config = Config { data: "/d".into(), ..Config::default() };
        let settings = |config: &Config| -> Vec<_> {
            let places = places(config, &crate::systems::urls(config));
            places.into_iter().map(|place| (place.path.display().to_string(), place.setting)).collect()
        };
        let all = settings(&config);
        for path in ["/d", "/d/spool", "/d/spill", "/d/log", "/d/lake", "/d/registry", "/d/catalog.sqlite"] {
            assert!(all.contains(&(path.to_owned(), DATA)), "{path}: {all:?}");
        }
        config.stream.url = "embedded:/l".to_owned();
        config.catalog.url = "sqlite:/c/runs.sqlite".to_owned();
        config.store.url = "s3://bucket/x".to_owned();
        let all = settings(&config);
        for (path, setting) in [("/l", "`stream.url`"), ("/c", "`catalog.url`"), ("/c/runs.sqlite", "`catalog.url`")] {
            assert!(all.contains(&(path.to_owned(), setting)), "{path}: {all:?}");
        }
        assert!(!all.iter().any(|(path, _)| path.contains("lake")), "tables in a bucket: {all:?}");
    }

    #[test]
    fn what_a_store_says_of_rights_is_answered_with_setting_and_fix_and_nothing_else_is() {
        let said = |text: &str| hint_of(&anyhow::anyhow!("{text}").context("opening the catalog `/d/c`"), DATA);
        assert!(said("attempt to write a readonly database").unwrap().contains("--data DIR"));
        assert!(said("x: Read-only file system (os error 30)").unwrap().starts_with("mount its file system"));
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let hint = hint_of(&anyhow::Error::from(denied).context("x"), "`archive.url`").unwrap();
        assert!(hint.contains("uid ") && hint.contains("`archive.url`"), "{hint}");
        assert_eq!(said("connection refused"), None);
    }
}
