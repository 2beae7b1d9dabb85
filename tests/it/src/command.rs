//! One run of `flywheel` to its end.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// What a command that has ended said.
#[derive(Debug)]
pub struct Finished {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Whether a missing `what` is a failure instead of a skip.
pub fn requires(what: &str) -> bool {
    env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word.trim() == what))
}

/// The program under test; `None` where it is not built and may be missing.
///
/// # Panics
/// If it is not built and `FLYWHEEL_REQUIRE` lists `programs`.
pub fn program() -> Option<PathBuf> {
    let path = match env::var_os("FLYWHEEL_BIN") {
        Some(path) => PathBuf::from(path),
        // A test lies in target/PROFILE/deps, the programs one above.
        None => env::current_exe().ok()?.parent()?.parent()?.join("flywheel"),
    };
    if path.is_file() {
        return Some(path);
    }
    let how = "build it with `cargo build --workspace --bins`";
    assert!(!requires("programs"), "{} is not there; {how}", path.display());
    eprintln!("SKIPPED: {} is not there; {how}", path.display());
    None
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `flywheel` on a data folder and waits for its end.
pub fn flywheel<A: AsRef<OsStr>>(program: &Path, data: &Path, arguments: &[A]) -> Finished {
    command(program, data, arguments).stdin(Stdio::null()).output().expect("the program starts").into()
}

/// The same, with the file `input` as its standard input.
pub fn flywheel_reads<A: AsRef<OsStr>>(program: &Path, data: &Path, arguments: &[A], input: &Path) -> Finished {
    let input = File::open(input).expect("the input is there");
    command(program, data, arguments).stdin(input).output().expect("the program starts").into()
}

/// `flywheel` on a data folder, not started yet.
pub fn command<A: AsRef<OsStr>>(program: &Path, data: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    surround(&mut command, data);
    command
}

/// A scenario's own folder and settings, and nothing of the machine's: what is configured here is not what is tested,
/// and neither is how full the machine's disk is, or how fast.
pub(crate) fn surround(command: &mut Command, data: &Path) {
    let folder = data.parent().unwrap_or(data);
    command.current_dir(folder).env("FLYWHEEL_DATA", data).env_remove("FLYWHEEL_CONFIG").env_remove("FLYWHEEL_KEY");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLYWHEEL__")) {
        command.env_remove(name);
    }
    command.env("FLYWHEEL__UP__DRAIN", "150s").env("FLYWHEEL__INGEST__APPEND_WAIT", "150s");
    let settings = fs::read_to_string(folder.join("flywheel.toml")).unwrap_or_default();
    if !settings.contains("reserve_") {
        command.env("FLYWHEEL__STREAM__RESERVE_SHARE", "0").env("FLYWHEEL__STREAM__RESERVE_BYTES", "16777216");
    }
}

/// A Python with the readers of our tables: the one that `make venv` has made, or `FLYWHEEL_PYTHON`.
///
/// # Panics
/// If there is none and `FLYWHEEL_REQUIRE` lists `python`.
pub fn python() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    let path = env::var_os("FLYWHEEL_PYTHON").map_or(ours, PathBuf::from);
    let reads = Command::new(&path).args(["-c", "import deltalake, duckdb, polars, pyarrow"]).output();
    if reads.is_ok_and(|output| output.status.success()) {
        return Some(path);
    }
    assert!(!requires("python"), "{} does not read tables; `make venv` makes one that does", path.display());
    eprintln!("SKIPPED: {} does not read tables; `make venv` makes one that does", path.display());
    None
}
