//! The routes, and the server around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::counter;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::{self, StatusCache};
use crate::page::Pages;
use crate::{LoopView, guard, live, metrics};

const BODY_BYTES_MAX: usize = 16 << 10;
/// After the stop, open requests get this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Pages that may follow the state at the same time.
    pub status_sockets_max: usize,
    /// Pages that may watch a game at the same time.
    pub game_sockets_max: usize,
    /// Weight files that may be on their way at the same time; each is in memory meanwhile.
    pub weights_max: usize,
    /// Longest time in which a weight file must be taken; then its place is given to the next.
    pub weights_deadline: Duration,
    /// Serve the stub even if the page was built.
    pub stub_page: bool,
    /// Names besides addresses and `localhost` by which the server may be asked for, without port.
    pub hosts: Vec<String>,
    /// More routes behind the same guard, such as the doors for events. They bound their bodies themselves where they
    /// read them as a stream.
    pub doors: Router,
    /// The doors take no event without a key, so `POST /v1/events` and the socket `/v1/events/ws` are answered to other
    /// machines too.
    pub keyed_doors: bool,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            status_sockets_max: 64,
            game_sockets_max: 32,
            weights_max: 16,
            weights_deadline: Duration::from_secs(60),
            stub_page: false,
            hosts: Vec::new(),
            doors: Router::new(),
            keyed_doors: false,
        }
    }
}

pub(crate) struct Control {
    pub(crate) view: Arc<dyn LoopView>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) pages: Pages,
    pub(crate) status: StatusCache,
    pub(crate) status_places: Arc<Semaphore>,
    pub(crate) game_places: Arc<Semaphore>,
    pub(crate) weight_places: Arc<Semaphore>,
    pub(crate) weights_deadline: Duration,
    pub(crate) stop: CancellationToken,
}

/// All routes over `view`. Must be called on a Tokio runtime: it starts the upkeep of `metrics`, until `stop`.
///
/// Changes (`POST`) need the peer's address: serve the router with [`serve`], or with connect info of your own.
pub fn router(
    view: Arc<dyn LoopView>,
    metrics: PrometheusHandle,
    config: ControlConfig,
    stop: CancellationToken,
) -> Router {
    tokio::spawn(metrics::upkeep(metrics.clone(), stop.clone()));
    let guard = guard::Guard::new(config.hosts, config.keyed_doors);
    let control = Arc::new(Control {
        view,
        metrics,
        pages: Pages::choose(config.stub_page),
        status: StatusCache::default(),
        status_places: Arc::new(Semaphore::new(config.status_sockets_max)),
        game_places: Arc::new(Semaphore::new(config.game_sockets_max)),
        weight_places: Arc::new(Semaphore::new(config.weights_max)),
        weights_deadline: config.weights_deadline,
        stop,
    });
    Router::new()
        .route("/v1/status", get(api::status))
        .route("/v1/history", get(api::history))
        .route("/v1/models", get(api::models))
        .route("/v1/models/{base}/{alias}", get(api::alias))
        .route("/v1/models/{base}/versions/{version}/weights", get(api::weights))
        .route("/v1/models/{base}/promote", post(api::promote))
        .route("/v1/models/{base}/rollback", post(api::rollback))
        .route("/v1/games", get(api::games))
        .route("/v1/{*rest}", get(api::no_such_call))
        .route("/ws", get(live::status))
        .route("/ws/games/{id}", get(live::game))
        .route("/metrics", get(api::metrics))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/", get(api::page))
        .route("/{*path}", get(api::page))
        .with_state(control)
        .merge(config.doors)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(guard, guard::check))
        .layer(from_fn(guard::headers))
        .layer(from_fn(count))
}

async fn count(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    counter!(metrics::REQUESTS, "status" => class).increment(1);
    response
}

/// Serves `app` on `listener` until `stop`, then lets open requests end for at most five seconds.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) -> std::io::Result<()> {
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        biased;
        result = async { server.await } => result,
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_LIMIT).await } => Ok(()),
    }
}
