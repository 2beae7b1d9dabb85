//! A running `flywheel up`, started and ended by a scenario.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything; a machine that builds beside the tests is slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder of a scenario; kept when the scenario fails, so that a person can look.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Panics
    /// If no temporary folder can be made.
    pub fn new(name: &str) -> Self {
        let folder =
            tempfile::Builder::new().prefix(&format!("flywheel-{name}-")).tempdir().expect("a temporary folder");
        Self { path: folder.keep() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data folder; not made yet.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            // A folder that cannot be removed is the system's to clean.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Polls until `ready` gives something.
///
/// # Panics
/// If that takes longer than five minutes; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// `flywheel up` on a data folder, with a page on a free port.
#[derive(Debug)]
pub struct Loop {
    child: Child,
    data: PathBuf,
    output: PathBuf,
}

impl Loop {
    /// Starts it without waiting; its output goes to `NAME.log` beside the data folder.
    ///
    /// # Panics
    /// If the program does not start.
    pub fn start(program: &Path, scratch: &Scratch, name: &str, arguments: &[&str]) -> Self {
        let output = scratch.path().join(format!("{name}.log"));
        let log = File::create(&output).expect("the scratch folder takes a file");
        let child = Command::new(program)
            .args(["up", "--port", "0"])
            .args(arguments)
            .current_dir(scratch.path())
            .env("FLYWHEEL_DATA", scratch.data())
            .env_remove("FLYWHEEL_CONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has copies"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Self { child, data: scratch.data(), output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its page answers; the page's address.
    ///
    /// # Panics
    /// If it ends instead; the message holds what it said.
    pub fn ready(&mut self) -> String {
        wait_for("the loop's page", || {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("the loop ended with {status}:\n{}", self.said());
            }
            let running: Value = serde_json::from_slice(&fs::read(self.data.join("up.json")).ok()?).ok()?;
            let url = running["url"].as_str().filter(|_| running["pid"].as_u64() == Some(self.pid().into()))?;
            let (status, _) = crate::get(&format!("{url}/healthz")).ok()?;
            (status == 200).then(|| url.to_owned())
        })
    }

    /// Processes that it started itself, such as the trainer.
    pub fn children(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for its orderly end.
    pub fn terminate(mut self) -> ExitStatus {
        signal(self.pid(), libc::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the loop's end", || self.child.try_wait().expect("the child is ours"))
    }

    /// What it has printed so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that a scenario started, or that its loop did.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers; a process that is gone makes it fail and nothing else.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}
