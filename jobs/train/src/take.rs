//! Which run to work on.

use std::time::Duration;

use flywheel_catalog::{CatalogError, CatalogErrorKind, Lease, Run, RunFilter, RunState, Runs};
use flywheel_events::BaseKey;
use flywheel_jobs::{RunJobError, Worker};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::KIND;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Finds the run to work on and leases it; waits while another process holds it or it is stopped.
///
/// With an `id` it is that run. Without one it is the newest `train` run of this base key that has not completed, or
/// a new one made with `spec`.
///
/// # Errors
/// If the catalog cannot be used, or there is no run of that id. `None` if cancelled meanwhile.
pub async fn take_run(
    runs: &Runs,
    worker: &Worker,
    id: Option<&str>,
    base_key: &BaseKey,
    spec: &Value,
    cancel: &CancellationToken,
) -> Result<Option<Lease>, RunJobError> {
    let mut said = String::new();
    loop {
        let run = match id {
            Some(id) => Some(runs.get(&id.parse()?).await?),
            None => newest(runs, base_key).await?,
        };
        let id = match run {
            Some(run) => run.id,
            None => runs.create(KIND, spec).await?,
        };
        match worker.lease(&id).await {
            Ok(lease) => return Ok(Some(lease)),
            // Held by another process, stopped, or the database is busy: all of that passes.
            Err(error) if matches!(error.kind(), CatalogErrorKind::Conflict | CatalogErrorKind::Unavailable) => {
                let why = error.to_string();
                if why != said {
                    info!(run = %id, %why, "waiting for the run; `flywheel run resume` lets a stopped one go on");
                    said = why;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn newest(runs: &Runs, base_key: &BaseKey) -> Result<Option<Run>, CatalogError> {
    let filter = RunFilter { kind: Some(KIND.to_owned()), ..RunFilter::default() };
    let all = runs.list(filter).await?;
    let ours = all.into_iter().find(|run| run.spec["base_key"] == base_key.as_str());
    Ok(ours.filter(|run| run.state != RunState::Completed))
}
