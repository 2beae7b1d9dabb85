//! Every metric of this crate, with its meaning.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

pub const SESSIONS: &str = "flywheel_play_sessions";
pub const SOCKETS: &str = "flywheel_play_sockets";
pub const TICKS: &str = "flywheel_play_ticks_total";
pub const TICK_SECONDS: &str = "flywheel_play_tick_seconds";
pub const TICKS_SKIPPED: &str = "flywheel_play_ticks_skipped_total";
pub const GAMES_ENDED: &str = "flywheel_play_games_ended_total";
pub const FRAMES_DROPPED: &str = "flywheel_play_frames_dropped_total";
pub const INPUT_OVERFLOWS: &str = "flywheel_play_input_overflows_total";
pub const SOCKETS_SLOW: &str = "flywheel_play_sockets_slow_total";
pub const STORE_REQUESTS: &str = "flywheel_play_store_requests_total";
pub const FARM_TICKS: &str = "flywheel_farm_ticks_total";
pub const FARM_GAMES: &str = "flywheel_farm_games_total";
pub const FARM_WAIT_SECONDS: &str = "flywheel_farm_wait_seconds_total";
pub const FARM_WAITING: &str = "flywheel_farm_waiting_count";

/// Names of all metrics declared here, for the check of dashboards.
pub const ALL: [&str; 14] = [
    SESSIONS,
    SOCKETS,
    TICKS,
    TICK_SECONDS,
    TICKS_SKIPPED,
    GAMES_ENDED,
    FRAMES_DROPPED,
    INPUT_OVERFLOWS,
    SOCKETS_SLOW,
    STORE_REQUESTS,
    FARM_TICKS,
    FARM_GAMES,
    FARM_WAIT_SECONDS,
    FARM_WAITING,
];

/// Tells the recorder what each metric means, and gives those without labels their zero.
pub fn describe() {
    describe_gauge!(SESSIONS, Unit::Count, "game sessions that exist");
    describe_gauge!(SOCKETS, Unit::Count, "sockets joined to sessions");
    describe_counter!(TICKS, Unit::Count, "ticks simulated for live sessions");
    describe_histogram!(TICK_SECONDS, Unit::Seconds, "time to simulate one tick and hand out its messages");
    describe_counter!(TICKS_SKIPPED, Unit::Count, "ticks given up because the loop was too far behind");
    describe_counter!(GAMES_ENDED, Unit::Count, "live games that ended, by reason");
    describe_counter!(FRAMES_DROPPED, Unit::Count, "frames from clients that were dropped, by reason");
    describe_counter!(INPUT_OVERFLOWS, Unit::Count, "AI input queues that grew past three");
    describe_counter!(SOCKETS_SLOW, Unit::Count, "sockets closed because they did not read fast enough");
    describe_counter!(STORE_REQUESTS, Unit::Count, "requests to the model store, by call and status");
    describe_counter!(FARM_TICKS, Unit::Count, "ticks simulated by the farm");
    describe_counter!(FARM_GAMES, Unit::Count, "games that the farm finished, by opponent");
    describe_counter!(FARM_WAIT_SECONDS, Unit::Seconds, "time that farm threads waited for the event queue");
    describe_gauge!(FARM_WAITING, Unit::Count, "farm threads that wait for the event queue now");
    for name in [TICKS, TICKS_SKIPPED, INPUT_OVERFLOWS, SOCKETS_SLOW, FARM_TICKS, FARM_WAIT_SECONDS] {
        counter!(name).increment(0);
    }
    for name in [SOCKETS, FARM_WAITING] {
        gauge!(name).increment(0.0);
    }
    drop(histogram!(TICK_SECONDS));
}
