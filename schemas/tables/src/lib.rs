//! The tables of the lake: names and types of every column, declared once, with typed builders and readers.
//!
//! Every table is partitioned by `system` and `dt` (the UTC day, `2026-11-21`). Delta has no unsigned types: a
//! `u64` of a spec is a non-negative `long`, an observation is `binary` of little-endian float32, an id is a
//! `string`. A schema only grows at its end and only by nullable columns, so that old files stay readable.
//!
//! ```
//! use flywheel_tables::{EventsBuilder, TableName, schema};
//! use flywheel_events::{Event, GameId, System};
//!
//! let mut rows = EventsBuilder::new();
//! let event = Event::new(System::Tank, "tank.tick", GameId::new("g-1").unwrap(), 0, 1_700_000_000_000);
//! rows.push(&event, 3, 41, 1_700_000_000_005);
//! assert_eq!(rows.finish().schema(), schema(TableName::Events));
//! ```

mod columns;
mod day;
mod dead_letters;
mod episodes;
mod error;
mod evaluations;
mod events;
mod json;
mod masks;
mod names;
mod numbers;
mod schemas;
mod transitions;
mod view;

pub use day::day_of;
pub use dead_letters::{DeadLetterRow, DeadLettersBuilder, dead_letters_from};
pub use episodes::{EpisodeSeatRow, EpisodesBuilder, episodes_from};
pub use error::TableError;
pub use evaluations::{EvaluationRow, EvaluationsBuilder, evaluations_from};
pub use events::{EventsBuilder, events_from};
pub use names::TableName;
pub use schemas::{PARTITION_COLUMNS, schema, stats_columns};
pub use transitions::{StoredTransition, TransitionsBuilder, stored_transitions_from, transitions_from};
pub use view::{DecodeView, EventView};
