use std::{net::TcpListener, path::Path};

use flywheel_backends::LogFound;
use flywheel_log::{LogError, LogErrorKind, ReserveLimits, Space};
use serde::Serialize;

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    output,
};

#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    finding: String,
    fix: Option<String>,
}

fn ok(check: &'static str, finding: impl Into<String>) -> Check {
    Check { check, state: State::Ok, finding: finding.into(), fix: None }
}

fn bad(check: &'static str, state: State, finding: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { check, state, finding: finding.into(), fix: Some(fix.into()) }
}

/// Exit code 7 if a check failed.
pub async fn run(global: &Global, _args: Args) -> Result<(), Failure> {
    let mut checks = vec![ok("program", format!("flywheel {}", env!("CARGO_PKG_VERSION")))];
    match Config::load(global) {
        Ok(config) => {
            checks.push(ok("configuration", "fits"));
            data(&config, &mut checks).await;
            checks.extend(log(&config).await);
            checks.push(store(&config).await);
            checks.push(catalog(&config).await);
            checks.push(archive(&config).await);
            ports(&config, &mut checks);
            checks.push(trainer(&config));
        }
        Err(failure) => {
            checks.push(bad("configuration", State::Failed, failure.to_string(), "mend the value that is named"))
        }
    }
    checks.push(page());
    let lines: Vec<_> = checks
        .iter()
        .map(|c| {
            let mark = match c.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Failed => "FAILED",
            };
            vec![mark.to_owned(), c.check.to_owned(), c.finding.clone(), c.fix.clone().unwrap_or_default()]
        })
        .collect();
    output::print(global, &checks, &["", "check", "finding", "fix"], lines);
    let failed = checks.iter().filter(|c| c.state == State::Failed).count();
    if failed > 0 {
        return Err(Failure::msg(Code::CheckFailed, format!("{failed} checks failed")));
    }
    Ok(())
}

async fn data(config: &Config, checks: &mut Vec<Check>) {
    let folder = &config.data;
    let parent = folder.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    checks.push(disk(volume(parent).ok(), crate::up::reserve_limits(config)));
    if !folder.exists() {
        checks.push(ok("data folder", format!("`{}` is not there yet; `flywheel up` makes it", folder.display())));
        return;
    }
    match DataDir::open(folder) {
        Err(failure) => checks.push(failed("data folder", &failure, "see the message")),
        Ok(dir) => {
            checks.push(ok("data folder", format!("`{}`, layout {}", folder.display(), crate::data::DATA_VERSION)));
            match dir.lock() {
                Ok(_) => checks.push(ok("loop", "not running")),
                Err(failure) if failure.code() == Code::Conflict => {
                    let url = dir.running().map_or_else(String::new, |running| running.url);
                    checks.push(ok("loop", format!("running, {url}")));
                }
                Err(failure) => checks.push(failed("data folder", &failure, "let this user write there")),
            }
        }
    }
}

/// A failure with its own hint, where it has one.
fn failed(check: &'static str, failure: &Failure, fix: &str) -> Check {
    bad(check, State::Failed, failure.to_string(), failure.hinted().unwrap_or(fix))
}

/// One on servers is asked before the first start too; an embedded one is there once the data folder is.
async fn log(config: &Config) -> Option<Check> {
    let found = match crate::systems::urls(config).look_at_log().await {
        Ok(found) => found,
        Err(error) => return Some(bad("log", State::Failed, format!("{error:#}"), log_fix(&error))),
    };
    if config.data.exists() {
        // Also whether the tables are of this log.
        match crate::systems::open_existing(config).await {
            Err(failure) if failure.code() == Code::NotFound => {}
            Err(failure) => return Some(failed("log", &failure, "see the message; the log is that of `stream.url`")),
            Ok(backends) if found.is_none() => {
                return Some(ok("log", format!("durability {}", backends.log.durability())));
            }
            Ok(_) => {}
        }
    }
    let LogFound { place, durability, settings, risks } = found?;
    let finding = format!("{place}, {}", settings.unwrap_or_else(|| format!("durability {durability}")));
    Some(match risks.is_empty() {
        true => ok("log", finding),
        false => bad("log", State::Warning, finding, risks.join("; ")),
    })
}

/// The setting to look at; the message says the rest.
fn log_fix(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").to_ascii_lowercase();
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<LogError>()).map(LogError::kind);
    let fix = if text.contains("built without") {
        "build the program with the feature that is named, or name another log in `stream.url`"
    } else if text.contains("password") || text.contains("sasl") {
        "correct user and secret of `stream.url`: `redis://USER@host:port?password.env=NAME`, \
         `kafka://host:port?sasl.username=USER&sasl.password.env=NAME`"
    } else if kind.is_some_and(LogErrorKind::is_retryable) {
        "start the server, or correct host and port in `stream.url`"
    } else {
        "correct what the message names in `stream.url`"
    };
    fix.to_owned()
}

/// Less than this is soon full.
const ROOM: u64 = 2 << 30;

/// What the loop itself will say of the disk, by the same limits.
fn disk(space: Option<Space>, limits: ReserveLimits) -> Check {
    let Some(space) = space else { return bad("disk", State::Warning, "free space is unknown", "look with df") };
    let (free, reserve) = (space.free, limits.of(space.total));
    if free < limits.bytes {
        return bad(
            "disk",
            State::Failed,
            format!("{} MB free; a loop does not start below {} MB", free >> 20, limits.bytes >> 20),
            "free some space, name another folder with --data DIR, or lower stream.reserve_bytes",
        );
    }
    if free < reserve {
        return bad(
            "disk",
            State::Warning,
            format!("{} MB free; a loop takes no new events below {} MB", free >> 20, reserve >> 20),
            "free some space, or lower stream.reserve_share",
        );
    }
    if free - reserve < ROOM {
        return bad(
            "disk",
            State::Warning,
            format!("{} MB free, of which new events may take {} MB", free >> 20, (free - reserve) >> 20),
            "free some space, or name another folder with --data DIR",
        );
    }
    ok("disk", format!("{:.1} GB free", free as f64 / (1u64 << 30) as f64))
}

/// Whether the archive can be reached; nothing is written to it.
async fn archive(config: &Config) -> Check {
    if !config.archive.is_on() {
        return ok("archive", "none: days stay in the tables (`archive.url`)");
    }
    let store = match config.archive.cold_store() {
        Ok(store) => store.expect("it is on"),
        Err(error) => return bad("archive", State::Failed, format!("{error:#}"), "mend the setting that is named"),
    };
    match store.list("index/claim.json").await {
        Ok(found) if found.is_empty() => ok("archive", format!("{}, empty so far", store.place())),
        Ok(_) => ok("archive", store.place()),
        Err(error) => bad("archive", State::Failed, error.to_string(), "see the message"),
    }
}

/// Writers that race for one name, and how often, when a person asks.
const PROBE: (usize, usize) = (8, 12);

async fn store(config: &Config) -> Check {
    const FIX: &str = "correct the setting that is named";
    let failed = |why: String, fix: &str| bad("store", State::Failed, why, fix);
    let bucket = match config.store.bucket() {
        Ok(None) => return ok("store", "the data folder"),
        Ok(Some(bucket)) => bucket,
        Err(error) => return failed(format!("{error:#}"), FIX),
    };
    if let Err(error) = bucket.reach().await {
        return failed(format!("{error:#}"), FIX);
    }
    let (writers, rounds) = PROBE;
    match bucket.probe(writers, rounds).await {
        Err(error) => failed(format!("{error:#}"), FIX),
        Ok(probe) => match probe.refusal() {
            Some(why) => failed(why, "`flywheel up` refuses it; take another store"),
            None => ok("store", format!("{bucket} keeps rows exactly once ({rounds} races of {writers} writers)")),
        },
    }
}

async fn catalog(config: &Config) -> Check {
    if config.catalog.is_local() && !config.data.exists() {
        return ok("catalog", "a file in the data folder; `flywheel up` makes it");
    }
    let failed = |why: String| bad("catalog", State::Failed, why, "correct the setting that is named");
    let found = match crate::systems::urls(config).open_catalog().await {
        Ok(catalog) => catalog.described().await,
        Err(error) => return failed(format!("{error:#}")),
    };
    match found {
        Err(error) => failed(error.to_string()),
        Ok(found) if found.risks.is_empty() => ok("catalog", format!("{}, {}", config.catalog.shown(), found.server)),
        Ok(found) => bad(
            "catalog",
            State::Warning,
            format!("{}, {}: {}", config.catalog.shown(), found.server, found.risks.join("; ")),
            "a change that is lost can undo a lease or a checkpoint's name",
        ),
    }
}

fn ports(config: &Config, checks: &mut Vec<Check>) {
    if config.up.port == 0 {
        return;
    }
    match TcpListener::bind((config.up.listen, config.up.port)) {
        Ok(_) => checks.push(ok("port", format!("{} is free", config.up.port))),
        Err(error) => checks.push(bad(
            "port",
            State::Warning,
            format!("{}: {error}", config.up.port),
            "a running loop holds it, or choose another with --port P",
        )),
    }
}

fn trainer(config: &Config) -> Check {
    match crate::up::trainer::find_program(&config.train) {
        Ok(program) => match std::process::Command::new(&program).arg("doctor").output() {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                ok("trainer", text.split_whitespace().collect::<Vec<_>>().join(" "))
            }
            Ok(output) => bad(
                "trainer",
                State::Failed,
                format!("`{}` ended with {}", program.display(), output.status),
                "`make libtorch build`; its libtorch may have moved",
            ),
            Err(error) => bad("trainer", State::Failed, error.to_string(), "`make build`"),
        },
        Err(why) => bad("trainer", State::Failed, why, "`make build`"),
    }
}

fn page() -> Check {
    if flywheel_control::page_is_stub() {
        bad("page", State::Warning, "built without Node: a stub is served", "install Node 20 and `make build`")
    } else {
        ok("page", "built in")
    }
}

/// Bytes that an ordinary user may still write in the file system of `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    volume(path).ok().map(|space| space.free)
}

/// The file system of `path`, as far as an ordinary user may use it.
///
/// # Errors
/// If the path is not there.
pub fn volume(path: &Path) -> std::io::Result<Space> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a C string and `stat` is written by the call before it is read.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        stat.assume_init()
    };
    let bytes = |blocks: u64| blocks * stat.f_frsize as u64;
    let (free, used) = (stat.f_bavail as u64, (stat.f_blocks as u64).saturating_sub(stat.f_bfree as u64));
    Ok(Space { free: bytes(free), total: bytes(free + used) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_judged_by_the_limits_that_the_loop_keeps() {
        const GB: u64 = 1 << 30;
        let limits = |share, bytes| ReserveLimits { share, bytes };
        for (free, limits, state, said) in [
            (50 * GB, limits(0.05, GB / 2), State::Ok, "50.0 GB free"),
            (4 * GB, limits(0.05, GB / 2), State::Warning, "no new events below 5120 MB"),
            // The bytes count where they are more than the share, and a loop does not start below them.
            (6 * GB, limits(0.05, 7 * GB), State::Failed, "does not start below 7168 MB"),
            (8 * GB, limits(0.05, 7 * GB), State::Warning, "of which new events may take 1024 MB"),
            (GB, limits(0.0, 0), State::Warning, "of which new events may take 1024 MB"),
        ] {
            let check = disk(Some(Space { free, total: 100 * GB }), limits);
            assert_eq!(check.state, state, "{check:?}");
            assert!(check.finding.contains(said), "{check:?}");
        }
        assert_eq!(disk(None, limits(0.05, 0)).state, State::Warning);
    }
}
