//! Every number that this crate exports.

use metrics::{describe_counter, describe_gauge, describe_histogram};

pub const LAND_EVENTS: &str = "flywheel_land_events_total";
pub const LAND_DUPLICATES: &str = "flywheel_land_duplicates_total";
pub const LAND_DEAD: &str = "flywheel_land_dead_letters_total";
pub const LAND_GAPS: &str = "flywheel_land_open_gaps";
pub const LAND_FRESHNESS: &str = "flywheel_land_freshness_seconds";
pub const LAND_WAITING: &str = "flywheel_land_waiting";
pub const LAND_PARTITIONS: &str = "flywheel_land_partitions";
pub const LAND_FENCED: &str = "flywheel_land_fenced_total";
pub const LAND_TAKEOVER: &str = "flywheel_land_takeover_seconds";
pub const ASSEMBLE_GAMES: &str = "flywheel_assemble_games_total";
pub const ASSEMBLE_TRANSITIONS: &str = "flywheel_assemble_transitions_total";
pub const ASSEMBLE_INCOMPLETE: &str = "flywheel_assemble_incomplete_games_total";
pub const ASSEMBLE_DEAD: &str = "flywheel_assemble_dead_letters_total";
pub const ASSEMBLE_OPEN: &str = "flywheel_assemble_open_games";
pub const ASSEMBLE_FRESHNESS: &str = "flywheel_assemble_freshness_seconds";
pub const ASSEMBLE_WAITING: &str = "flywheel_assemble_waiting";
pub const ASSEMBLE_PARTITIONS: &str = "flywheel_assemble_partitions";
pub const ASSEMBLE_FENCED: &str = "flywheel_assemble_fenced_total";
pub const ASSEMBLE_TAKEOVER: &str = "flywheel_assemble_takeover_seconds";

/// Every metric with its description; a dashboard may query nothing else.
pub const ALL: [(&str, &str); 19] = [
    (LAND_EVENTS, "events committed to table events"),
    (LAND_DUPLICATES, "records dropped because their (game_id, seq) was there already"),
    (LAND_DEAD, "records that could not be decoded and went to table dead_letters"),
    (LAND_GAPS, "stretches of seq that are missing in recent games now"),
    (LAND_FRESHNESS, "time from an event's acceptance by the log to its commit in table events"),
    (LAND_WAITING, "1 while land waits for the log or the lake"),
    (LAND_PARTITIONS, "partitions that this process lands now"),
    (LAND_FENCED, "commits of land that were refused because another process had taken over"),
    (LAND_TAKEOVER, "time from the last sign of life of who held a partition to its takeover by this process' land"),
    (ASSEMBLE_GAMES, "games closed and committed to table episodes"),
    (ASSEMBLE_TRANSITIONS, "transitions committed to table transitions"),
    (ASSEMBLE_INCOMPLETE, "closed games of which events are missing or unusable"),
    (ASSEMBLE_DEAD, "events whose payload could not be used and went to table dead_letters"),
    (ASSEMBLE_OPEN, "games that have not closed yet"),
    (ASSEMBLE_FRESHNESS, "time from a game's close in the log to the commit of its rows"),
    (ASSEMBLE_WAITING, "1 while assemble waits for the log or the lake"),
    (ASSEMBLE_PARTITIONS, "partitions that this process assembles now"),
    (ASSEMBLE_FENCED, "commits of assemble that were refused because another process had taken over"),
    (ASSEMBLE_TAKEOVER, "time from the last sign of life of who held a partition to its takeover by assemble here"),
];

/// Gives every metric its help text and its zero: a rate has a beginning then, and an alert something to look at.
pub(crate) fn describe() {
    for (name, text) in ALL {
        if name.ends_with("_total") {
            describe_counter!(name, text);
            metrics::counter!(name).increment(0);
        } else if name.ends_with("_seconds") {
            describe_histogram!(name, text);
            drop(metrics::histogram!(name));
        } else {
            describe_gauge!(name, text);
            metrics::gauge!(name).increment(0.0);
        }
    }
}
