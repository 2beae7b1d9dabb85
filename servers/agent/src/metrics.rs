//! Every metric of this crate, with its meaning.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};

pub const SESSIONS: &str = "flywheel_agent_sessions";
pub const POLLS_FAILED: &str = "flywheel_agent_polls_failed_total";
pub const RECONNECTS: &str = "flywheel_agent_reconnects_total";
pub const DECISIONS: &str = "flywheel_agent_decisions_total";
pub const DECISION_SECONDS: &str = "flywheel_agent_decision_seconds";
pub const SWAPS: &str = "flywheel_agent_swaps_total";
pub const SWAPS_REFUSED: &str = "flywheel_agent_swaps_refused_total";
pub const SWAP_SECONDS: &str = "flywheel_agent_swap_seconds";
pub const ENTRIES_SKIPPED: &str = "flywheel_agent_entries_skipped_total";
pub const TRAIN_STEPS: &str = "flywheel_agent_train_steps_total";
pub const TRAIN_SECONDS: &str = "flywheel_agent_train_seconds";
pub const SAVES: &str = "flywheel_agent_saves_total";
pub const SAVE_SECONDS: &str = "flywheel_agent_save_seconds";

/// Names of all metrics declared here, for the check of dashboards.
pub const ALL: [&str; 13] = [
    SESSIONS,
    POLLS_FAILED,
    RECONNECTS,
    DECISIONS,
    DECISION_SECONDS,
    SWAPS,
    SWAPS_REFUSED,
    SWAP_SECONDS,
    ENTRIES_SKIPPED,
    TRAIN_STEPS,
    TRAIN_SECONDS,
    SAVES,
    SAVE_SECONDS,
];

/// Tells the recorder what each metric means, and gives those of live play their zero.
pub fn describe() {
    describe_gauge!(SESSIONS, Unit::Count, "sessions that the AI backend serves");
    describe_counter!(POLLS_FAILED, Unit::Count, "polls of the game backend without a usable answer");
    describe_counter!(RECONNECTS, Unit::Count, "sockets that were lost and tried again");
    describe_counter!(DECISIONS, Unit::Count, "actions chosen for AI tanks");
    describe_histogram!(DECISION_SECONDS, Unit::Seconds, "from a transition parsed to its actions computed");
    describe_counter!(SWAPS, Unit::Count, "versions taken by sessions at a swap point");
    describe_counter!(SWAPS_REFUSED, Unit::Count, "versions refused because they failed a check");
    describe_histogram!(SWAP_SECONDS, Unit::Seconds, "from a champion's promotion to the first decision by it");
    describe_counter!(ENTRIES_SKIPPED, Unit::Count, "entries of transitions that could not be used");
    describe_counter!(TRAIN_STEPS, Unit::Count, "online training steps");
    describe_histogram!(TRAIN_SECONDS, Unit::Seconds, "time to train on one transition");
    describe_counter!(SAVES, Unit::Count, "saves to the model store, by outcome");
    describe_histogram!(SAVE_SECONDS, Unit::Seconds, "time of a successful save");
    for name in [POLLS_FAILED, RECONNECTS, DECISIONS, SWAPS, SWAPS_REFUSED, ENTRIES_SKIPPED] {
        counter!(name).increment(0);
    }
    drop([histogram!(DECISION_SECONDS), histogram!(SWAP_SECONDS)]);
}
