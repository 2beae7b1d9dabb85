//! What `flywheel bench ingest` measures of servers: how busy a Redis of its own is while we ingest at full speed, and
//! with `--through URL` how fast events go through a log and into the table, and what that costs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use flywheel_events::{Event, GameId, System};
use flywheel_flows::{CancellationToken, Land, LandConfig, LandStats};
use flywheel_lake::{Lake, TableName};
use flywheel_log::{EventLog, Record, Topic, partition_of};
use flywheel_log_redis::RedisLog;
use tokio::task::JoinHandle;

use crate::{Figure, folder::Folder, process_cpu_seconds, thread_cpu_seconds};

const BENCH: &str = "ingest";
const PARTITIONS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// A lander from which nothing comes for so long has nothing more to give.
const STALLED: Duration = Duration::from_secs(60);
/// Games of each partition that are played at once.
const GAMES: usize = 16;
const BATCH: usize = 1_000;

fn topic() -> Topic {
    Topic::new(System::Tank.topic())
}

/// Events of one partition, about 200 bytes each, of games that are played side by side.
struct Games {
    names: Vec<String>,
    next: u64,
}

impl Games {
    /// Those of one of the producers of a partition.
    fn of(partition: u32, producer: usize) -> Self {
        let names = (0..).map(|n| format!("t{n:04}-00001"));
        let ours = names.filter(|name| partition_of(name.as_bytes(), PARTITIONS) == partition);
        Self { names: ours.skip(producer * GAMES).take(GAMES).collect(), next: 0 }
    }

    fn event(&mut self) -> (String, Vec<u8>) {
        let (game, seq) = ((self.next % GAMES as u64) as usize, self.next / GAMES as u64);
        self.next += 1;
        let name = &self.names[game];
        let payload = serde_json::json!({
            "tick": seq * 3, "bot": seq % 4, "type": "tick", "x": (seq % 800) as f64 / 2.0, "y": (seq % 600) as f64 / 4.0,
            "energy": 81.25, "action": seq % 8, "reward": 0.25, "done": seq % 1000 == 999,
        });
        let event = Event::new(
            System::Tank,
            "tank.tick",
            GameId::new(name.as_str()).expect("a plain name"),
            seq,
            1_730_000_000_000 + seq as i64,
        );
        (name.clone(), event.actor("server").payload(&payload).encode().to_vec())
    }
}

/// `land` on a table of its own.
struct Landing {
    stats: Arc<LandStats>,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Landing {
    fn start(log: &Arc<dyn EventLog>, lake: &Lake) -> Self {
        let land = Land::new(Arc::clone(log), lake.clone(), LandConfig::new(topic(), PARTITIONS));
        let (stats, cancel) = (land.stats(), CancellationToken::new());
        let told = cancel.clone();
        let task = tokio::spawn(async move { Ok(land.run(told).await?) });
        Self { stats, cancel, task }
    }

    async fn until(&self, events: u64) -> anyhow::Result<()> {
        self.watched_until(events, |_| {}).await
    }

    /// Ends with an error if nothing lands for longer than [`STALLED`]; `show` is told how many have, again and again.
    async fn watched_until(&self, events: u64, mut show: impl FnMut(u64)) -> anyhow::Result<()> {
        let (mut newest, mut since) = (0, Instant::now());
        loop {
            let landed = self.stats.events.load(Relaxed);
            show(landed);
            if landed >= events {
                return Ok(());
            }
            if landed > newest {
                (newest, since) = (landed, Instant::now());
            }
            ensure!(!self.task.is_finished(), "land ended before its time");
            let dead = self.stats.dead.load(Relaxed) + self.stats.duplicates.load(Relaxed);
            ensure!(
                since.elapsed() < STALLED,
                "{landed} of {events} events landed, then none for {STALLED:?} ({dead} were refused)"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        self.task.await.context("the task of land")?
    }
}

/// `events` events through `log` and into a table: first all are appended, then all are landed, so that the cost of each is
/// its own. Landing is stopped after a tenth and started again on what is behind it.
///
/// # Errors
/// If the log fails, or has the topic already.
pub async fn through(
    log: Arc<dyn EventLog>,
    events: u64,
    show: impl Fn(&'static str, u64, u64),
) -> anyhow::Result<Vec<Figure>> {
    let known = log.topics().await?.into_iter().any(|(known, _)| known == topic());
    ensure!(!known, "the log has events already; name another `prefix=` in its URL");
    let folder = Folder::new("through")?;
    log.create_topic(&topic(), PARTITIONS).await?;
    let share = events / u64::from(PARTITIONS);
    let events = share * u64::from(PARTITIONS);

    let (began, cpu) = (Instant::now(), process_cpu_seconds());
    let mut producers = Vec::new();
    let appended = Arc::new(AtomicU64::new(0));
    for partition in 0..PARTITIONS {
        let (log, to, appended) = (Arc::clone(&log), topic().partition(partition), Arc::clone(&appended));
        producers.push(tokio::spawn(async move {
            let mut games = Games::of(partition, 0);
            while games.next < share {
                let n = (share - games.next).min(BATCH as u64);
                let record = |games: &mut Games| {
                    let (key, event) = games.event();
                    Record::new(key, event)
                };
                log.append(&to, (0..n).map(|_| record(&mut games)).collect()).await?;
                appended.fetch_add(n, Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    for mut producer in producers {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                ended = &mut producer => break ended.context("a producer")??,
                _ = beat.tick() => show("appended", appended.load(Relaxed), events),
            }
        }
    }
    let produced = (began.elapsed().as_secs_f64(), process_cpu_seconds() - cpu);

    let lake = Lake::local(folder.path().join("lake"))?;
    let first = Landing::start(&log, &lake);
    first.until(events / 10).await?;
    first.stop().await?;
    let there = lake.table(TableName::Events).rows().await?;
    ensure!(
        there < events,
        "all {events} events landed before the lander could be stopped; ask for more with --events"
    );
    let before = resident_mb();
    let (began, cpu) = (Instant::now(), process_cpu_seconds());
    let landing = Landing::start(&log, &lake);
    landing.until(1).await?;
    let first_commit = began.elapsed();
    let (mut peak, mut looked) = (before, Instant::now());
    let look = |landed: u64| {
        if looked.elapsed() > Duration::from_millis(20) {
            (peak, looked) = (f64::max(peak, resident_mb()), Instant::now());
            show("landed", there + landed, events);
        }
    };
    landing.watched_until(events - there, look).await?;
    let landed = (began.elapsed().as_secs_f64(), process_cpu_seconds() - cpu);
    landing.stop().await?;
    ensure!(lake.table(TableName::Events).rows().await? == events, "the table has not each event once");

    let figure = |metric: &str, unit: &'static str, value: f64| Figure::new(BENCH, metric, unit, &[value]);
    let left = (events - there) as f64;
    Ok(vec![
        figure("through_events", "events", events as f64),
        figure("through_append_rate", "events/s", events as f64 / produced.0),
        figure("through_append_cpu", "us/event", produced.1 * 1e6 / events as f64),
        figure("through_land_rate", "events/s", left / landed.0),
        figure("through_land_cpu", "us/event", landed.1 * 1e6 / left),
        figure("through_restart_first_commit", "ms", first_commit.as_secs_f64() * 1e3),
        figure("through_land_memory_more", "MB", peak - before),
        figure("through_land_memory_peak", "MB", peak),
    ])
}

fn resident_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

/// A `redis-server` in memory, ended with this value.
struct Redis {
    child: Child,
    port: u16,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Redis {
    /// `None` where it is not installed.
    fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(port.to_string());
        command.arg("--dir").arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("starting redis-server"),
        };
        let this = Self { child, port };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until {
                bail!("redis-server does not answer");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(this))
    }

    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("asking for its CPU time")?;
        let fields: Vec<_> = stat.rsplit_once(") ").context("a line of /proc")?.1.split(' ').collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        // SAFETY: asks for a constant.
        Ok(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }
}

/// One producer that knows nothing of us: `XADD` in pipelines, written beforehand. Returns its CPU time.
fn push(port: u16, pipelines: &[Vec<u8>], entries: usize) -> anyhow::Result<f64> {
    let cpu = thread_cpu_seconds();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    // An error is one line and not two, so that the second would be waited for.
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = vec![0; 1 << 16];
    for pipeline in pipelines {
        stream.write_all(pipeline)?;
        // An answer is the id as a bulk string: two lines for each entry.
        let mut lines = 0;
        while lines < 2 * entries {
            let n = stream.read(&mut answers)?;
            ensure!(n > 0, "redis-server closed");
            ensure!(answers[0] != b'-', "{}", String::from_utf8_lossy(&answers[..n]));
            lines += answers[..n].iter().filter(|byte| **byte == b'\n').count();
        }
    }
    Ok(thread_cpu_seconds() - cpu)
}

/// How busy `redis-server` is while plain producers write to it as fast as it takes it and `land` reads as fast as it can;
/// and how many events were not in the table when the last producer was done: whether it is the server that is waited for.
///
/// # Errors
/// If the server does not start, or a row is missing.
pub async fn redis(events: usize) -> anyhow::Result<Vec<Figure>> {
    const PIPELINE: usize = 128;
    // Two to a partition, eight connections.
    const PRODUCERS: u32 = 2 * PARTITIONS;
    let folder = Folder::new("redis")?;
    let Some(server) = Redis::start(folder.path())? else {
        eprintln!("redis-server is not installed, so how busy it is was not measured");
        return Ok(Vec::new());
    };
    let log: Arc<dyn EventLog> = RedisLog::connect(&format!("redis://127.0.0.1:{}/0", server.port)).await?;
    log.create_topic(&topic(), PARTITIONS).await?;
    let pipelines_of = |producer: u32| {
        let partition = producer % PARTITIONS;
        let mut games = Games::of(partition, (producer / PARTITIONS) as usize);
        let stream = format!("flywheel:{{{}:{partition}}}", topic());
        let count = events / PRODUCERS as usize / PIPELINE;
        let pipelines = (0..count).map(|_| {
            let mut bytes = Vec::with_capacity(PIPELINE * 320);
            for _ in 0..PIPELINE {
                let (_, event) = games.event();
                bytes.extend_from_slice(b"*5\r\n$4\r\nXADD\r\n");
                for part in [stream.as_bytes(), b"*", b"event", &event] {
                    bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
                    bytes.extend_from_slice(part);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            bytes
        });
        pipelines.collect::<Vec<_>>()
    };
    let pipelines: Vec<_> = (0..PRODUCERS).map(pipelines_of).collect();
    let sent = pipelines.iter().map(Vec::len).sum::<usize>() * PIPELINE;

    let lake = Lake::local(folder.path().join("lake"))?;
    let landing = Landing::start(&log, &lake);
    let (began, cpu, servers) = (Instant::now(), process_cpu_seconds(), server.cpu_seconds()?);
    let port = server.port;
    let producers: Vec<_> =
        pipelines.into_iter().map(|pipelines| thread::spawn(move || push(port, &pipelines, PIPELINE))).collect();
    let pushing = tokio::task::spawn_blocking(move || {
        let join =
            |producer: thread::JoinHandle<anyhow::Result<f64>>| producer.join().expect("a producer does not panic");
        producers.into_iter().map(join).sum::<anyhow::Result<f64>>()
    });
    let pushing = pushing.await.context("the producers")??;
    // What is left after the last producer is a commit's wait, not work for the server.
    let (busy, behind) = (
        (server.cpu_seconds()? - servers) / began.elapsed().as_secs_f64(),
        sent as u64 - landing.stats.events.load(Relaxed),
    );
    landing.until(sent as u64).await?;
    let (wall, own, servers) =
        (began.elapsed().as_secs_f64(), process_cpu_seconds() - cpu, server.cpu_seconds()? - servers);
    landing.stop().await?;
    ensure!(lake.table(TableName::Events).rows().await? == sent as u64, "the table has not each event once");
    let figure = |metric: &str, unit: &'static str, value: f64| Figure::new(BENCH, metric, unit, &[value]);
    let each = |seconds: f64| seconds * 1e6 / sent as f64;
    Ok(vec![
        figure("redis_busy", "share of a core", busy),
        figure("redis_behind", "events", behind as f64),
        figure("redis_rate", "events/s", sent as f64 / wall),
        figure("redis_land_cpu", "us/event", each(own - pushing)).against("redis-server", each(servers), false),
    ])
}
