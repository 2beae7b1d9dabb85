//! Names of this crate's metrics.

pub const STEPS: &str = "flywheel_train_steps_total";
pub const STEP_RATE: &str = "flywheel_train_steps_per_second";
pub const LOSS: &str = "flywheel_train_loss_ratio";
pub const TRANSITIONS: &str = "flywheel_train_transitions_total";
pub const BUFFER_ROWS: &str = "flywheel_replay_rows";
pub const STALENESS: &str = "flywheel_replay_staleness_versions";
pub const PUBLISHED: &str = "flywheel_train_published_total";

/// Gives each of them its help text.
pub fn describe() {
    metrics::describe_counter!(STEPS, "learner steps");
    metrics::describe_gauge!(STEP_RATE, "learner steps per second over the last two seconds");
    metrics::describe_gauge!(LOSS, "running mean of the training loss");
    metrics::describe_counter!(TRANSITIONS, "transitions inserted into the replay buffer");
    metrics::describe_gauge!(BUFFER_ROWS, "transitions in the replay buffer");
    metrics::describe_gauge!(STALENESS, "mean age of the last batch's rows in model versions");
    metrics::describe_counter!(PUBLISHED, "versions published");
}
