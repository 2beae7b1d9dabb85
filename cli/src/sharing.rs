//! Landing and assembling as processes of their own: where they work, as whom, and how they end.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use flywheel_control::install_metrics;
use flywheel_flows::{
    CancellationToken, FlowError, Sharing,
    sharing::{Owner, owners},
};
use flywheel_kit::{ServeConfig, Shutdown};
use flywheel_lake::Lake;
use flywheel_log::EventLog;

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    systems::{check_store, not_opened, urls},
};

/// What `land` and `assemble` take.
#[derive(Debug, clap::Args)]
pub struct ShareArgs {
    /// Only these partitions, such as `0,3-5`; `all` shares those that nobody pins with the other processes
    #[arg(long, default_value = "all", value_name = "LIST", value_parser = pins)]
    partitions: Pins,
    /// Serve /metrics, /healthz and /readyz on this address, such as 127.0.0.1:9100; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

/// What `--partitions` says; `None` is "all".
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pins(Option<BTreeSet<u32>>);

/// `all`, or numbers and ranges with commas between them.
fn pins(text: &str) -> Result<Pins, String> {
    if text == "all" {
        return Ok(Pins(None));
    }
    let number = |text: &str| -> Result<u32, String> {
        let number: u32 =
            text.trim().parse().map_err(|_| format!("`{text}` is no partition; write `0,3-5` or `all`"))?;
        if number < 256 { Ok(number) } else { Err(format!("there are at most 256 partitions; `{number}` is none")) }
    };
    let mut pins = BTreeSet::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                if from > to {
                    return Err(format!("`{part}` runs backwards; write `{to}-{from}`"));
                }
                pins.extend(from..=to);
            }
            None => {
                pins.insert(number(part)?);
            }
        }
    }
    Ok(Pins(Some(pins)))
}

/// As whom this process shares: a name that no process had before.
pub fn sharing(config: &Config, pins: Option<BTreeSet<u32>>) -> Sharing {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let member = format!("{}:{}:{}", host(), std::process::id(), &random[..6]);
    Sharing { member, pins, lease: config.stream.lease }
}

fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is ours and its length is told, with a byte to spare for the end.
    let named = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } == 0;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    if named && end > 0 { String::from_utf8_lossy(&name[..end]).into_owned() } else { "localhost".to_owned() }
}

/// Where a flow of its own works.
pub struct Place {
    pub log: Arc<dyn EventLog>,
    pub lake: Lake,
    pub partitions: u32,
    pub sharing: Sharing,
    flow: &'static str,
    metrics: Option<SocketAddr>,
    drain: Duration,
    quiet: bool,
}

impl Place {
    pub async fn open(global: &Global, args: &ShareArgs, flow: &'static str) -> Result<Self, Failure> {
        let config = Config::load(global)?;
        if args.metrics.is_some() {
            // Before anything is made that describes its own.
            install_metrics()?;
        }
        let urls = urls(&config);
        if !urls.has_servers() {
            return Err(Failure::msg(
                Code::Config,
                format!("`{flow}` needs a log that several processes share; stream.url is `{}`", urls.shown_log()),
            )
            .hint("set stream.url to redis://host:port or kafka://host:port; on an embedded log `flywheel up` does it all"));
        }
        let partitions = config.stream.partitions;
        if let Some(beyond) = args.partitions.0.iter().flatten().find(|partition| **partition >= partitions) {
            return Err(Failure::msg(
                Code::Usage,
                format!(
                    "there is no partition {beyond}: stream.partitions is {partitions}, so the last is {}",
                    partitions - 1
                ),
            )
            .hint("name others with --partitions"));
        }
        if config.store.is_local() {
            DataDir::create(&config.data)?;
            crate::writable::check_tables(&config)?;
        }
        check_store(&config).await?;
        let (log, lake) = urls.open_shared().await.map_err(not_opened)?;
        crate::topic::create(log.as_ref(), partitions).await?;
        Ok(Self {
            log,
            lake,
            partitions,
            sharing: sharing(&config, args.partitions.0.clone()),
            flow,
            metrics: args.metrics,
            drain: config.up.drain,
            quiet: global.quiet,
        })
    }

    /// Runs `flow` until a signal; then it has as long as `up.drain` says. A second signal ends the process at once.
    pub async fn run<F>(&self, flow: impl FnOnce(CancellationToken) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), FlowError>>,
    {
        let shutdown = Shutdown::install();
        let served = self.serve_metrics(shutdown.token()).await?;
        if !self.quiet {
            let what = match &self.sharing.pins {
                Some(pins) => format!("partitions {}", listed(pins)),
                None => format!("a share of {} partitions", self.partitions),
            };
            let metrics = served.map_or_else(String::new, |at| format!("  metrics at http://{at}/metrics"));
            crate::output::note!("{}: {what} as {}{metrics}  stop with Ctrl-C", self.flow, self.sharing.member);
        }
        let stop = CancellationToken::new();
        let flow = flow(stop.clone());
        tokio::pin!(flow);
        let failed = |error: FlowError| Failure::new(Code::Failure, error);
        tokio::select! {
            biased;
            ended = &mut flow => return ended.map_err(failed),
            () = shutdown.cancelled() => {}
        }
        tracing::info!(flow = self.flow, "stopping");
        stop.cancel();
        match tokio::time::timeout(self.drain, flow).await {
            Ok(ended) => ended.map_err(failed),
            Err(_) => {
                // What is not in the tables is in the log, and the lease runs out.
                tracing::warn!(
                    flow = self.flow,
                    "did not drain in time; what was read is read again by another process"
                );
                Ok(())
            }
        }
    }

    async fn serve_metrics(&self, stop: CancellationToken) -> Result<Option<SocketAddr>, Failure> {
        let Some(address) = self.metrics else { return Ok(None) };
        let handle = install_metrics()?;
        let listener = flywheel_kit::bind(address).await.map_err(|error| {
            Failure::new(Code::Conflict, error).hint("choose another with --metrics ADDRESS; port 0 takes any free one")
        })?;
        let address = listener.local_addr()?;
        let app = flywheel_control::metrics_router(handle, stop.clone());
        tokio::spawn(async move {
            if let Err(error) = flywheel_kit::serve(listener, app, ServeConfig::default(), stop).await {
                tracing::warn!(%error, "the metrics stopped");
            }
        });
        Ok(Some(address))
    }
}

/// Who lands and assembles on the configured log; nothing where it cannot be shared.
pub async fn who_owns(config: &Config) -> Result<Vec<Owner>, Failure> {
    let urls = urls(config);
    if !urls.has_servers() {
        return Ok(Vec::new());
    }
    let log = urls.open_shared_log().await.map_err(|error| Failure::new(Code::Unreachable, error))?;
    Ok(owners(log.as_ref(), jiff::Timestamp::now().as_millisecond()).await?)
}

/// One line for each process.
pub fn line(owner: &Owner) -> String {
    let seconds = |ms: f64| format!("{:.1} s", ms / 1000.0);
    let held: BTreeSet<u32> = owner.holds.keys().copied().collect();
    let holds = if held.is_empty() { "nothing".to_owned() } else { format!("partitions {}", listed(&held)) };
    let fences: Vec<String> = owner.holds.iter().map(|(partition, fence)| format!("{partition}:{fence}")).collect();
    let pinned = owner.pins.as_ref().map_or_else(String::new, |pins| format!(", pinned {}", listed(pins)));
    let fenced = if fences.is_empty() { String::new() } else { format!(", fences {}", fences.join(" ")) };
    let life = if owner.is_dead { "DEAD, last heard of" } else { "heard of" };
    format!(
        "{}  {}  {holds}{pinned}{fenced}; {life} {} ago, lease {}",
        owner.group,
        owner.member,
        seconds(owner.silent_ms as f64),
        seconds(owner.lease_ms as f64)
    )
}

/// `0,3-5`.
fn listed(partitions: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &partition in partitions {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == partition => *last = partition,
            _ => ranges.push((partition, partition)),
        }
    }
    let text = |&(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_read_as_people_write_them() {
        let set = |numbers: &[u32]| Ok(Pins(Some(numbers.iter().copied().collect())));
        assert_eq!(pins("all"), Ok(Pins(None)));
        assert_eq!(pins("0,3-5"), set(&[0, 3, 4, 5]));
        assert_eq!(pins("7, 1 - 2"), set(&[1, 2, 7]));
        for bad in ["", "x", "3-", "5-3", "0,,1", "-1", "256", "0-4000000000"] {
            assert!(pins(bad).is_err(), "{bad}");
        }
        assert!(pins("5-3").unwrap_err().contains("3-5"));
    }

    #[test]
    fn partitions_are_written_as_they_are_read() {
        for text in ["0", "0,3-5", "0-255", "1-2,4,6-9"] {
            assert_eq!(listed(&pins(text).unwrap().0.unwrap()), text);
        }
    }

    #[test]
    fn no_two_processes_share_under_one_name() {
        let config = Config::default();
        assert_ne!(sharing(&config, None).member, sharing(&config, None).member);
        assert_eq!(sharing(&config, None).lease, config.stream.lease);
    }
}
