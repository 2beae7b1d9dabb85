//! The whole loop in one process, and the trainer beside it.
//!
//! Stages are started from the table side back to play, so that nothing is produced before it has somewhere to go,
//! and stopped in the other order, each drained into the next. A `kill -9` at any moment is as good as a stop: what
//! was acknowledged is in the log, and every stage goes on from what it committed.

mod bootstrap;
mod cold;
mod degraded;
mod finish;
mod keys;
mod line;
mod live;
mod report;
mod stages;
mod start;
pub mod trainer;
mod view;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

pub use self::start::reserve_limits;
use flywheel_kit::Shutdown;
use tracing::info;

use crate::{
    config::Config,
    data::{DataDir, Running},
    exit::{Code, Failure},
};

/// What the command line asked for besides the configuration.
#[derive(Debug)]
pub struct Options {
    pub run_for: Option<Duration>,
    pub report: Option<PathBuf>,
    pub ack_journal: Option<PathBuf>,
    pub quiet: bool,
    pub json: bool,
    /// This process lands and assembles too; where the log is shared, beside others.
    pub lands: bool,
}

/// Where this machine finds a page that listens on `page`: "every address" is none.
fn reached_at(page: SocketAddr) -> SocketAddr {
    let ip = match page.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, page.port())
}

/// Runs until the time is over or a signal comes; a second signal ends the process at once.
pub async fn run(config: Config, options: Options) -> Result<(), Failure> {
    let started = Instant::now();
    let started_ms = jiff::Timestamp::now().as_millisecond();
    let data = DataDir::create(&config.data)?;
    crate::writable::check(&config)?;
    let least = config.stream.reserve_bytes;
    if let Some(free) = crate::commands::doctor::free_bytes(data.root()).filter(|free| *free < least) {
        return Err(Failure::msg(
            Code::Temporary,
            format!(
                "only {} MB are free in `{}`; the loop needs at least {}",
                free >> 20,
                data.root().display(),
                least >> 20
            ),
        )
        .hint("free some space, name a folder on another disk with --data DIR, or lower stream.reserve_bytes"));
    }
    let _lock = data.lock()?;
    let shutdown = Shutdown::install();
    let running = start::start(&config, &options, &data, started, started_ms).await?;
    let url = format!("http://{}", reached_at(running.page));
    if !running.page.ip().is_loopback() {
        tracing::warn!(listen = %running.page, "other machines can look at the page and at live games");
    }
    data.set_running(&Running { pid: std::process::id(), url: url.clone(), started_ms })?;
    if !options.quiet {
        crate::output::note!("flywheel: {url}  data in {}  stop with Ctrl-C", data.root().display());
        crate::output::note!(
            "games at http://{} · models at http://{} · log is {}",
            running.view.parts.backend.local_addr(),
            running.store,
            running.view.parts.backends.log.durability()
        );
        if !config.store.is_local() {
            crate::output::note!("tables and models in {}", config.store.url);
        }
        if !config.catalog.is_local() {
            crate::output::note!("runs in {}", config.catalog.shown());
        }
    }
    let lines = line::StatusLine::new(options.quiet);
    let deadline = options.run_for.map(|time| started + time);
    running.view.refresh().await;
    lines.show(&running.view.snapshot());
    let why = loop {
        let next = Instant::now() + lines.interval();
        let until = deadline.map_or(next, |deadline| deadline.min(next));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break "a signal",
            why = running.failed() => {
                finish::finish(running, &options, &config).await?;
                return Err(Failure::msg(Code::Failure, why));
            }
            () = tokio::time::sleep_until(until.into()) => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break "the time is over";
        }
        lines.show(&running.view.snapshot());
    };
    info!(why, "stopping");
    lines.finish();
    if !options.quiet {
        crate::output::note!("flywheel: {why}; draining (again: at once)");
    }
    finish::finish(running, &options, &config).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_on_every_address_is_found_on_loopback() {
        let at = |text: &str| reached_at(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(at("[::]:8080"), "[::1]:8080");
        assert_eq!(at("10.0.0.7:1"), "10.0.0.7:1");
    }
}
