//! The recorder behind `/metrics`, with buckets for every histogram.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::{Lack, LoopStatus, StageState};

pub(crate) const SOCKETS: &str = "flywheel_control_sockets";
pub(crate) const REQUESTS: &str = "flywheel_control_requests_total";
pub(crate) const FRAMES_SENT: &str = "flywheel_control_frames_sent_total";
pub(crate) const FRAMES_SKIPPED: &str = "flywheel_control_frames_skipped_total";

const STAGE_STATE: &str = "flywheel_stage_state";
const STAGE_RATE: &str = "flywheel_stage_rate";
const STAGE_LAG: &str = "flywheel_stage_lag";
const DEGRADED: &str = "flywheel_loop_degraded";
const BUILD_INFO: &str = "flywheel_build_info";
const UP_SECONDS: &str = "flywheel_up_seconds";
const CHAMPION: &str = "flywheel_champion_version";
const CHAMPION_SCORE: &str = "flywheel_champion_score_ratio";
const REPORT: &str = "flywheel_loop_counter_value";

/// From one microsecond, where decisions are, to a minute, where commits of a slow store are.
const SECONDS: &[f64] = &[
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.033, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];
/// Sizes and counts: powers of four.
const AMOUNTS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];
const RATIOS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Installs the recorder of this process, once; later calls return the same handle.
///
/// Every histogram has buckets by its unit: `…_seconds`, `…_ratio`, and powers of four for all others. Without
/// buckets the exporter would keep samples and answer summaries.
///
/// # Errors
/// If another recorder was installed before.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALL: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one_at_a_time = INSTALL.lock();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets(AMOUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_ratio".to_owned()), RATIOS)?
        .install_recorder()?;
    describe_metrics();
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Describes what this crate declares.
pub fn describe_metrics() {
    describe_gauge!(SOCKETS, "open sockets of the page, by kind");
    describe_counter!(REQUESTS, "requests answered, by class of status");
    describe_counter!(FRAMES_SENT, "game frames sent to pages");
    describe_counter!(FRAMES_SKIPPED, "game frames that slow pages skipped");
    describe_gauge!(STAGE_STATE, "1 for the state in which a stage is, 0 for the others");
    describe_gauge!(STAGE_RATE, "work of a stage per second, in the unit of the label");
    describe_gauge!(STAGE_LAG, "how far a stage is behind its input, in the unit of the label");
    describe_gauge!(DEGRADED, "1 while the loop does without the log, the store, the catalog or room on its disk");
    describe_gauge!(BUILD_INFO, "always 1; the label names the version of the program");
    describe_gauge!(UP_SECONDS, "seconds since the loop started");
    describe_gauge!(CHAMPION, "version that plays live");
    describe_gauge!(CHAMPION_SCORE, "share of games won by the champion, by opponent");
    describe_gauge!(REPORT, "counters of the report, by name");
}

/// Puts a state of the loop into gauges, so that `/metrics` has every stage.
pub fn record_status(status: &LoopStatus) {
    gauge!(UP_SECONDS).set(status.seconds);
    for stage in &status.stages {
        let name = stage.name.as_str();
        for state in StageState::ALL {
            let on = if stage.state == state { 1.0 } else { 0.0 };
            gauge!(STAGE_STATE, "stage" => name, "state" => state.as_str()).set(on);
        }
        if let Some(rate) = stage.rate {
            gauge!(STAGE_RATE, "stage" => name, "unit" => stage.rate_unit.clone()).set(rate);
        }
        if let Some(lag) = stage.lag {
            gauge!(STAGE_LAG, "stage" => name, "unit" => stage.lag_unit.clone()).set(lag);
        }
    }
    for what in Lack::ALL {
        let on = status.degraded.iter().any(|degraded| degraded.what == what);
        gauge!(DEGRADED, "what" => what.as_str()).set(f64::from(u8::from(on)));
    }
    if let Some(champion) = &status.champion {
        gauge!(CHAMPION, "model" => champion.model_key.clone()).set(champion.version as f64);
        for score in champion.scores.iter().filter(|score| !score.opponent.contains('@')) {
            gauge!(CHAMPION_SCORE, "opponent" => score.opponent.clone()).set(score.score);
        }
    }
    for (name, value) in &status.counters {
        gauge!(REPORT, "name" => name.clone()).set(*value);
    }
}

/// Folds the samples of histograms away until told to stop; without it they would pile up between scrapes.
pub(crate) async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = every.tick() => handle.run_upkeep(),
        }
    }
}
