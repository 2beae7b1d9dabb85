//! Long work that survives its worker: a [`Job`] is run under a lease of the catalog.
//!
//! While a job runs, a task of its own keeps the lease and carries its progress to the catalog, so that a long
//! step of the job loses nothing. A stop is heard within a beat and honoured at the job's next checkpoint. A worker
//! that has lost its lease, or could not renew it for as long as it lasts, has its job dropped where it stands and
//! writes nothing more; the run is then somebody else's.
//!
//! ```
//! # use flywheel_jobs::{Job, JobError, Outcome, RunContext};
//! struct Count;
//!
//! #[async_trait::async_trait]
//! impl Job for Count {
//!     fn kind(&self) -> &'static str {
//!         "count"
//!     }
//!
//!     async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError> {
//!         let done = context.run().checkpoint.as_deref().and_then(|uri| uri.parse().ok()).unwrap_or(0);
//!         for step in done..100 {
//!             context.progress(serde_json::json!({"step": step}));
//!             context.checkpoint(&step.to_string()).await?;
//!             if context.stop_requested() {
//!                 return Ok(Outcome::Stopped);
//!             }
//!         }
//!         Ok(Outcome::Completed)
//!     }
//! }
//! ```

mod context;
mod job;
mod run;

pub use context::RunContext;
pub use job::{Job, JobError, Outcome};
pub use run::{Ended, RunJobError, Worker, WorkerConfig};
