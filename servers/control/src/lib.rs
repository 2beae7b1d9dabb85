//! The window on the loop: one HTTP server with the page, the state of the six stages, live games and metrics.
//!
//! The crate knows no stage. A program hands it a [`LoopView`], which answers from what it has in memory, and gets
//! an [`axum::Router`]: the embedded page, `/v1/…` as JSON, `/ws` with the state twice a second, `/ws/games/{id}`
//! with the frames of one game, `/metrics`, `/healthz` and `/readyz`.
//!
//! A slow reader never slows the loop: states and frames are taken from watch channels, so who comes late skips.
//! Sockets, bodies, messages and kept points are all bounded. What moves a model is answered to this machine only,
//! and never to a page from elsewhere; so are events, unless their doors ask for a key. Errors are `application/problem+json` (RFC 9457).
//!
//! ```no_run
//! # async fn example(view: std::sync::Arc<dyn flywheel_control::LoopView>) -> Result<(), Box<dyn std::error::Error>> {
//! use flywheel_control::{ControlConfig, install_metrics, router, serve};
//! let metrics = install_metrics()?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! serve(listener, router(view, metrics, ControlConfig::default(), stop.clone()), stop).await?;
//! # Ok(()) }
//! ```

mod api;
mod bare;
mod games;
mod guard;
mod history;
mod live;
mod metrics;
mod page;
mod parcel;
mod problem;
mod router;
mod status;
mod view;

pub use bare::metrics_router;
pub use games::{FrameError, FrameMaker, GameFrame, GameInfo, GameWatch, Tiles};
pub use history::{History, HistoryKeeper, LatencyPoint, LossPoint, ScorePoint, ScoreSource, SwapPoint};
pub use metrics::{describe_metrics, install_metrics, record_status};
pub use metrics_exporter_prometheus::PrometheusHandle;
pub use page::page_is_stub;
pub use problem::Problem;
pub use router::{ControlConfig, router, serve};
pub use status::{
    Candidate, Champion, Decisions, Degraded, Lack, LoopStatus, ModelInfo, OpponentScore, Stage, StageState,
    StageStatus, Verdict,
};
pub use view::{AliasInfo, AliasMove, ControlError, ControlErrorKind, LoopView, Promote, Rollback, Weights};
