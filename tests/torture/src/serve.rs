//! The process under test: doors, log, tables and what looks after them, as `flywheel up` has them, without play.

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use flywheel_backends::{BackendUrls, Backends, CatalogConfig, StoreConfig};
use flywheel_events::System;
use flywheel_flows::{Land, LandConfig, land_app_id};
use flywheel_ingest::{Door, IngestConfig, SpoolConfig};
use flywheel_kit::ServeConfig;
use flywheel_lake::TableName;
use flywheel_log::Topic;
use flywheel_maintain::{Maintain, MaintainConfig, Trim, TrimConfig};
use tokio_util::sync::CancellationToken;

use crate::faults;

/// Said on standard output once the doors are open, before their address.
pub(crate) const READY: &str = "ready ";
/// Said on standard input: take no more, land everything, end.
pub(crate) const DRAIN: &str = "drain";
/// Said on standard output when that is done.
pub(crate) const DRAINED: &str = "drained";

/// All far shorter than in production, so that commits, compaction and trimming happen in the shortest lives, beside the
/// kills.
const LINGER: Duration = Duration::from_millis(120);
const COMPACT_EVERY: Duration = Duration::from_millis(450);
const TRIM_EVERY: Duration = Duration::from_millis(300);
const KEEP: Duration = Duration::from_secs(1);
/// As in production.
const SPOOL_BYTES: u64 = 1 << 30;
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// What the child is told.
#[derive(Debug, Clone)]
pub struct Served {
    pub data: PathBuf,
    /// URL of the log.
    pub log: String,
    /// Where the tables lie.
    pub store: StoreConfig,
    pub partitions: u32,
    /// Seed of the faults of log and store, if they are to have any.
    pub faults: Option<u64>,
}

/// Serves until standard input says to drain, or ends.
///
/// # Errors
/// If a store cannot be opened, or not everything could be landed at the end.
pub async fn serve(served: Served) -> anyhow::Result<()> {
    let urls =
        BackendUrls { log: served.log, data: served.data, store: served.store, catalog: CatalogConfig::default() };
    let (mut backends, _holder) = Backends::open(&urls).await?;
    if let Some(seed) = served.faults {
        backends.log = faults::log(backends.log, seed);
        backends.lake = faults::lake(&urls, seed)?;
    }
    let (topic, partitions) = (Topic::new(System::Tank.topic()), served.partitions);
    backends.log.create_topic(&topic, partitions).await.context("making the topic")?;
    let (stop_doors, stop) = (CancellationToken::new(), CancellationToken::new());

    let landing = LandConfig { linger: LINGER, ..LandConfig::new(topic.clone(), partitions) };
    let land = Land::new(Arc::clone(&backends.log), backends.lake.clone(), landing);
    let landing = tokio::spawn({
        let stop = stop.clone();
        async move { land.run(stop).await }
    });
    let maintain =
        Maintain::new(backends.lake.clone(), MaintainConfig { interval: COMPACT_EVERY, ..MaintainConfig::default() });
    let trim = Trim::new(
        Arc::clone(&backends.log),
        backends.lake.clone(),
        TrimConfig {
            topics: vec![(topic.clone(), partitions)],
            consumers: |topic, partition| vec![(TableName::Events, land_app_id(topic, partition))],
            keep: KEEP,
            interval: TRIM_EVERY,
        },
    );
    let stop_care = stop.clone();
    let care = tokio::spawn(async move { tokio::join!(maintain.run(stop_care.clone()), trim.run(stop_care)) });

    let config = IngestConfig { systems: vec![System::Tank], partitions, ..IngestConfig::default() };
    let spool = SpoolConfig { dir: urls.data.join("spool"), bytes: SPOOL_BYTES, reserve: None };
    let door = Door::spooling(Arc::clone(&backends.log), config, stop_doors.clone(), &spool)
        .with_context(|| format!("opening the spool in {}", spool.dir.display()))?;
    let listener = flywheel_kit::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    let app = flywheel_ingest::router(Arc::clone(&door));
    let serving = tokio::spawn(flywheel_kit::serve(listener, app, ServeConfig::default(), stop_doors.clone()));
    say(&format!("{READY}http://{address}"))?;

    let told = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    if told.await?.context("listening to the parent")?.trim_end() != DRAIN {
        // Whoever started us is gone; crash-only is as good as a stop.
        return Ok(());
    }
    stop_doors.cancel();
    door.closed().await;
    serving.await.context("the doors")??;
    let landed = everything_landed(&backends, &topic, partitions).await;
    stop.cancel();
    landing.await.context("landing")?.context("landing")?;
    care.await.context("compaction and trimming")?;
    landed?;
    say(DRAINED)
}

async fn everything_landed(backends: &Backends, topic: &Topic, partitions: u32) -> anyhow::Result<()> {
    let until = Instant::now() + DRAIN_LIMIT;
    let events = backends.lake.table(TableName::Events);
    for partition in 0..partitions {
        let Some(last) = backends.log.bounds(&topic.partition(partition)).await?.last else { continue };
        loop {
            let position = events.position(&land_app_id(topic, partition)).await?;
            if position.is_some_and(|position| position >= last.as_i64()) {
                break;
            }
            if Instant::now() > until {
                bail!("partition {partition} ends at {last}; after {DRAIN_LIMIT:?} landing stands at {position:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("telling the parent")
}
