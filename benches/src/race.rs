//! Landers as processes of their own, each on its core with its partitions: what `bench ingest` compares one core and two by.
//! Processes share the table and nothing else; within one they would share an allocator and an address space, too.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flywheel_events::System;
use flywheel_flows::{CancellationToken, Land, LandConfig, Sharing};
use flywheel_lake::Lake;
use flywheel_log::Topic;
use serde::{Deserialize, Serialize};

use crate::{
    ingest::{PATIENCE, landed, runtime},
    lines::Lines,
    pin::Pin,
};

const READY: &str = "ready";
const GO: &str = "go";
const DONE: &str = "done";

/// What a lander's process is told, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    place: PathBuf,
    /// A file for each partition, with the number of its lines.
    files: Vec<(PathBuf, usize)>,
    pins: BTreeSet<u32>,
    core: usize,
}

/// How a lander is started.
pub(crate) type Start = fn(&Told) -> anyhow::Result<Racer>;

/// A lander that was started.
pub(crate) struct Racer {
    child: Option<Child>,
    said: Box<dyn BufRead>,
    tell: Box<dyn Write>,
}

impl Drop for Racer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended = child.kill();
            let _gone = child.wait();
        }
    }
}

impl Racer {
    /// In a process of its own: this program, told by `bench-land`.
    pub fn process(told: &Told) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(["--quiet", "bench-land"]).arg(serde_json::to_string(told)?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a lander")?;
        let (said, tell) = (child.stdout.take().expect("it is piped"), child.stdin.take().expect("it is piped"));
        Ok(Self { child: Some(child), said: Box::new(BufReader::new(said)), tell: Box::new(tell) })
    }

    /// In a thread, for tests, which are no program that knows `bench-land`.
    #[cfg(test)]
    pub fn thread(told: &Told) -> anyhow::Result<Self> {
        let ((said, say), (hear, tell), told) = (std::io::pipe()?, std::io::pipe()?, told.clone());
        std::thread::spawn(move || land(&told, BufReader::new(hear), say).expect("what a test is told fits"));
        Ok(Self { child: None, said: Box::new(BufReader::new(said)), tell: Box::new(tell) })
    }

    fn hears(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        ensure!(line.trim_end() == word, "a lander said `{}` instead of `{word}`", line.trim_end());
        Ok(())
    }
}

/// Seconds until landers, each on its core with its partitions, have landed the files into one table.
pub(crate) fn race(
    start: Start,
    place: &Path,
    files: &[(PathBuf, usize)],
    landers: &[(usize, BTreeSet<u32>)],
) -> anyhow::Result<f64> {
    let told = |(core, pins): &(usize, BTreeSet<u32>)| Told {
        place: place.to_owned(),
        files: files.to_vec(),
        pins: pins.clone(),
        core: *core,
    };
    let mut racers = landers.iter().map(|lander| start(&told(lander))).collect::<Result<Vec<_>, _>>()?;
    racers.iter_mut().try_for_each(|racer| racer.hears(READY))?;
    let started = Instant::now();
    racers.iter_mut().try_for_each(|racer| writeln!(racer.tell, "{GO}"))?;
    racers.iter_mut().try_for_each(|racer| racer.hears(DONE))?;
    Ok(started.elapsed().as_secs_f64())
}

/// What a lander's process does: says when it holds its partitions, waits for its word, and says when all is in the table.
///
/// # Errors
/// If what it was told does not fit, or it does not get on.
pub fn serve(told: &Told) -> anyhow::Result<()> {
    land(told, std::io::stdin().lock(), std::io::stdout().lock())
}

fn land(told: &Told, mut hear: impl BufRead, mut say: impl Write) -> anyhow::Result<()> {
    let _pin = Pin::to(told.core);
    let topic = Topic::new(System::Tank.topic());
    let log = Lines::new(topic.clone(), &told.files);
    let of = |pin: &u32| told.files.get(*pin as usize).map(|(_, lines)| lines).context("there is no such partition");
    let rows = told.pins.iter().map(of).sum::<anyhow::Result<usize>>()?;
    let sharing = Sharing {
        member: format!("core-{}", told.core),
        pins: Some(told.pins.clone()),
        lease: Duration::from_secs(10),
    };
    let config = LandConfig::new(topic, told.files.len() as u32);
    let land = Land::new(log.clone(), Lake::local(&told.place)?, config).shared(sharing);
    let (stats, cancel) = (land.stats(), CancellationToken::new());
    runtime()?.block_on(async {
        let landing = tokio::spawn({
            let cancel = cancel.clone();
            async move { land.run(cancel).await }
        });
        let started = Instant::now();
        while stats.owned.partitions.load(Relaxed) < told.pins.len() as u64 {
            ensure!(started.elapsed() < PATIENCE, "the lander does not get its partitions");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        writeln!(say, "{READY}")?;
        say.flush()?;
        let mut word = String::new();
        hear.read_line(&mut word)?;
        ensure!(word.trim_end() == GO, "whoever started this is gone");
        log.open();
        landed(&stats, landing, &cancel, rows).await?;
        writeln!(say, "{DONE}")?;
        Ok(say.flush()?)
    })
}
