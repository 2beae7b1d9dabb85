//! Keeps `flywheel-trainer` running: starts it, starts it again when it dies, asks it to stop in order.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::TrainSettings;

/// Longest wait between two starts.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// What is known of the trainer's process.
#[derive(Debug, Clone, Default)]
pub struct TrainerState {
    pub pid: Option<u32>,
    pub starts: u32,
    /// Why it does not run.
    pub down: Option<String>,
}

/// How to start the trainer.
#[derive(Debug, Clone)]
pub struct TrainerCommand {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// The trainer's program: the configured one, else the one beside this program.
///
/// # Errors
/// If it is not there; the message says how to build it.
pub fn find_program(settings: &TrainSettings) -> Result<PathBuf, String> {
    if !settings.program.as_os_str().is_empty() {
        return if settings.program.is_file() {
            Ok(settings.program.clone())
        } else {
            Err(format!("train.program `{}` is not there", settings.program.display()))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("flywheel-trainer")));
    match beside {
        Some(path) if path.is_file() => Ok(path),
        _ => Err("flywheel-trainer is not built; `make build` builds it".to_owned()),
    }
}

/// Runs the trainer until told to stop; a trainer that dies is started again, and goes on from its checkpoint.
pub async fn keep_running(command: TrainerCommand, state: Arc<Mutex<TrainerState>>, cancel: CancellationToken) {
    let mut back_off = Duration::from_millis(500);
    loop {
        let started = tokio::time::Instant::now();
        let why = match spawn(&command) {
            Ok(mut child) => {
                set(&state, |s| {
                    s.pid = child.id();
                    s.starts += 1;
                    s.down = None;
                });
                info!(pid = child.id(), "started the trainer");
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {
                        stop(child).await;
                        set(&state, |s| { s.pid = None; s.down = Some("stopped".to_owned()); });
                        return;
                    }
                    status = child.wait() => match status {
                        Ok(status) => format!("the trainer ended ({status}); see {}", command.log.display()),
                        Err(error) => format!("lost the trainer: {error}"),
                    },
                }
            }
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > MAX_BACK_OFF {
            back_off = Duration::from_millis(500);
        }
        warn!(%why, retry_in = ?back_off, "the trainer is down");
        set(&state, |s| {
            s.pid = None;
            s.down = Some(format!("{why}; starting again in {:.1} s", back_off.as_secs_f64()));
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(back_off) => {}
        }
        back_off = (back_off * 2).min(MAX_BACK_OFF);
    }
}

fn set(state: &Mutex<TrainerState>, change: impl FnOnce(&mut TrainerState)) {
    change(&mut state.lock().expect("nothing panics while it holds the state"));
}

fn spawn(command: &TrainerCommand) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&command.log)
        .with_context(|| format!("opening `{}`", command.log.display()))?;
    let mut process = Command::new(&command.program);
    process
        .args(&command.arguments)
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    // SAFETY: prctl is async-signal-safe; the trainer must not outlive a loop that was killed, or the next loop
    // would start a second one.
    unsafe {
        process.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    process.spawn().with_context(|| format!("starting `{}`", command.program.display()))
}

/// SIGTERM, then SIGKILL after ten seconds: a killed trainer goes on from its last checkpoint just the same.
async fn stop(mut child: Child) {
    if let Some(pid) = child.id() {
        // SAFETY: the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
    }
    if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
        warn!("the trainer did not stop in 10 s and is killed");
        if let Err(error) = child.kill().await {
            warn!(%error, "killing the trainer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trainer_that_dies_is_started_again_and_a_stop_ends_it() {
        let dir = std::env::temp_dir().join(format!("flywheel-trainer-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let marks = dir.join("marks");
        // First start: leaves a mark and dies. Second start: stays.
        let script = format!("echo x >> {0}; [ $(wc -l < {0}) -gt 1 ] && exec sleep 600; exit 3", marks.display());
        let command =
            TrainerCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script], log: dir.join("log") };
        let (state, cancel) = (Arc::default(), CancellationToken::new());
        let task = tokio::spawn(keep_running(command, Arc::clone(&state), cancel.clone()));
        loop {
            let now = state.lock().unwrap().clone();
            if now.starts == 2 && now.pid.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.cancel();
        task.await.unwrap();
        assert_eq!(state.lock().unwrap().pid, None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
