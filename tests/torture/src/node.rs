//! A life of the process under test.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    LogChoice, Plan,
    cut::Journals,
    serve::{DRAIN, DRAINED, READY},
};

/// A started child. It dies with us.
pub struct Node {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    started: Instant,
    log: PathBuf,
}

/// A process that ends when the thread that starts it does, however that comes.
pub fn bound(command: &mut Command) -> &mut Command {
    command.kill_on_drop(true);
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

impl Node {
    /// The `life`th start; faults are other ones in each.
    pub fn start(
        plan: &Plan,
        life: u64,
        (data, log): (&Path, &str),
        journals: Option<&mut Journals>,
    ) -> anyhow::Result<Self> {
        let said_to = plan.folder.join("child.log");
        let mut command = Command::new(&plan.program);
        command
            .args(&plan.arguments)
            .args(["--log", log, "--partitions", &plan.partitions.to_string(), "--data"])
            .arg(data)
            .args((!plan.store.is_local()).then(|| format!("--store={}", plan.store_for_the_child())))
            .args(plan.faults.then(|| format!("--faults={}", plan.seed.wrapping_add(life))))
            .env_remove("FLYWHEEL_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(append(&said_to)?);
        // The settings of a server may name files by paths from here.
        if !matches!(plan.log, LogChoice::Url(_)) && plan.store.is_local() {
            command.current_dir(&plan.folder);
        }
        if let Some(journals) = journals {
            journals.watch(&mut command)?;
        }
        let mut child = bound(&mut command).spawn().with_context(|| format!("starting {}", plan.program.display()))?;
        let said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Ok(Self { child, said, started: Instant::now(), log: said_to })
    }

    /// Waits for the doors; their address, and how long it took.
    pub async fn ready(&mut self, patience: Duration) -> anyhow::Result<(String, Duration)> {
        let line =
            timeout(patience, self.said.next_line()).await.map_err(|_| self.silent("opened no doors", patience))?;
        match line? {
            Some(line) if line.starts_with(READY) => Ok((line[READY.len()..].to_owned(), self.started.elapsed())),
            _ => {
                let status = self.child.wait().await?;
                bail!("the process did not start again ({status}): {}", tail(&self.log));
            }
        }
    }

    /// `kill -9`.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.start_kill().context("killing the child")?;
        self.child.wait().await.context("waiting for the killed child")?;
        Ok(())
    }

    /// Takes no more, lands everything, ends.
    pub async fn drain(mut self, patience: Duration) -> anyhow::Result<()> {
        let mut stdin = self.child.stdin.take().expect("it is piped and taken once");
        stdin.write_all(format!("{DRAIN}\n").as_bytes()).await.context("telling the child to drain")?;
        let line =
            timeout(patience, self.said.next_line()).await.map_err(|_| self.silent("did not drain", patience))?;
        let status = self.child.wait().await?;
        if line?.as_deref() != Some(DRAINED) || !status.success() {
            bail!("the process did not land everything ({status}): {}", tail(&self.log));
        }
        Ok(())
    }

    fn silent(&self, what: &str, patience: Duration) -> anyhow::Error {
        anyhow::anyhow!("the process {what} within {patience:?}: {}", tail(&self.log))
    }
}

pub fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// The last lines that a process said.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}
