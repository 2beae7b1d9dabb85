//! A `redis-server` of the run's own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{RedisSync, cut::Journals, node};

pub struct Redis {
    folder: PathBuf,
    log: PathBuf,
    port: u16,
    sync: RedisSync,
    child: Option<Child>,
}

impl Redis {
    /// On a port that is free now; not started yet.
    pub fn new(folder: &Path, log: &Path, sync: RedisSync) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        Ok(Self { folder: folder.to_owned(), log: log.to_owned(), port, sync, child: None })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0?timeout=5s", self.port)
    }

    pub async fn start(&mut self, patience: Duration, journals: Option<&mut Journals>) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync"]);
        command.arg(self.sync.setting()).args(["--auto-aof-rewrite-percentage", "0"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(&self.folder);
        command.stdin(Stdio::null()).stdout(node::append(&self.log)?).stderr(node::append(&self.log)?);
        if let Some(journals) = journals {
            journals.watch(&mut command)?;
        }
        let mut child = node::bound(&mut command)
            .spawn()
            .context("starting redis-server; is it installed? (apt-get install redis-server)")?;
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("redis-server did not start ({status}): {}", node::tail(&self.log));
            }
            if answers(self.port).await.unwrap_or(false) {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > until {
                bail!("redis-server did not answer within {patience:?}: {}", node::tail(&self.log));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.start_kill().context("killing redis-server")?;
            child.wait().await.context("waiting for the killed redis-server")?;
        }
        Ok(())
    }
}

/// Whether it takes commands; while it loads its file it does not.
async fn answers(port: u16) -> std::io::Result<bool> {
    let mut answer = [0; 7];
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_exact(&mut answer).await
    };
    match timeout(Duration::from_secs(2), asked).await {
        Ok(read) => read.map(|_| &answer == b"+PONG\r\n"),
        Err(_) => Ok(false),
    }
}
