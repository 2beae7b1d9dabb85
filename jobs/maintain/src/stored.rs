//! What the tables hold of each game.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{
    array::{Array, AsArray},
    datatypes::{Int32Type, Int64Type},
};
use flywheel_lake::{Lake, LakeError, ScanOptions, TableName};
use futures::TryStreamExt;

use crate::{
    archive::{Archived, ArchivingError, Book},
    dead_letters::REPLAY,
    games::content,
    seqs::Seqs,
};

/// One game by the tables.
#[derive(Debug, Default)]
pub(crate) struct StoredGame {
    pub seqs: Seqs,
    pub rows: u64,
    pub content: u64,
    pub transitions: u64,
    pub doubled_transitions: u64,
    pub episodes: u64,
    pub incomplete: bool,
    pub doubled_seats: u64,
    /// Of the transitions of each seat, until doubles are looked for.
    ticks: BTreeMap<String, Vec<i64>>,
    seats: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub games: BTreeMap<String, StoredGame>,
    /// Dead letters of `land`: topic, partition, offset, and how many rows tell of it.
    pub dead: BTreeMap<(String, u32, i64), u64>,
    /// Dead letters of other flows.
    pub dead_elsewhere: u64,
}

/// Which states of the tables are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Versions {
    events: Option<u64>,
    transitions: Option<u64>,
    episodes: Option<u64>,
}

impl Versions {
    /// The newest ones, in the order against that of the commits: a game whose episodes are in has its transitions in.
    ///
    /// Dead letters are read as they are later: they are written before their position moves, and only ever more.
    pub async fn now(lake: &Lake) -> Result<Self, LakeError> {
        let episodes = lake.table(TableName::Episodes).version().await?;
        let transitions = lake.table(TableName::Transitions).version().await?;
        Ok(Self { episodes, transitions, events: lake.table(TableName::Events).version().await? })
    }
}

impl Stored {
    /// What the tables hold, and what `archive` holds of theirs.
    pub async fn read(lake: &Lake, versions: Versions, archive: Option<&Archived>) -> Result<Self, ArchivingError> {
        let mut stored = Self::default();
        if let (Some(archive), Some(version)) = (archive, versions.events) {
            for book in archive.books_as_of(version).await? {
                stored.take_book(book);
            }
        }
        // A table that was not there then holds nothing.
        if versions.events.is_some() {
            stored.read_events(lake, versions.events).await?;
        }
        if versions.transitions.is_some() {
            stored.read_transitions(lake, versions.transitions).await?;
        }
        if versions.episodes.is_some() {
            stored.read_episodes(lake, versions.episodes).await?;
        }
        stored.read_dead_letters(lake).await?;
        Ok(stored)
    }

    async fn read_events(&mut self, lake: &Lake, version: Option<u64>) -> Result<(), LakeError> {
        let columns = ScanOptions::columns(["game_id", "seq", "kind", "payload"]);
        let options = ScanOptions { version, ..columns };
        let mut batches = lake.table(TableName::Events).scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let text = |name| batch.column_by_name(name).expect("the scan asked for it").as_string::<i32>();
            let (game_id, kind, payload) = (text("game_id"), text("kind"), text("payload"));
            let seq = batch.column_by_name("seq").expect("the scan asked for it").as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let game = self.game(game_id.value(row));
                let seq = seq.value(row) as u64;
                game.rows += 1;
                if game.seqs.insert(seq) {
                    game.content = game.content.wrapping_add(content(seq, kind.value(row), payload.value(row)));
                }
            }
        }
        Ok(())
    }

    /// Rows that were moved to the archive count as in the table.
    fn take_book(&mut self, book: Book) {
        for (id, archived) in book.games {
            let game = self.game(&id);
            game.rows += archived.rows;
            game.seqs.extend(&archived.seqs);
            game.content = game.content.wrapping_add(archived.content);
        }
    }

    async fn read_transitions(&mut self, lake: &Lake, version: Option<u64>) -> Result<(), LakeError> {
        let columns = ScanOptions::columns(["game_id", "tick", "tank_id"]);
        let options = ScanOptions { version, ..columns };
        let mut batches = lake.table(TableName::Transitions).scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (game_id, seat) = (column("game_id").as_string::<i32>(), column("tank_id").as_string::<i32>());
            let tick = column("tick").as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let game = self.game(game_id.value(row));
                game.transitions += 1;
                let seat = seat.value(row);
                if !game.ticks.contains_key(seat) {
                    game.ticks.insert(seat.to_owned(), Vec::new());
                }
                game.ticks.get_mut(seat).expect("just inserted").push(tick.value(row));
            }
        }
        for game in self.games.values_mut() {
            for mut ticks in std::mem::take(&mut game.ticks).into_values() {
                let all = ticks.len();
                ticks.sort_unstable();
                ticks.dedup();
                game.doubled_transitions += (all - ticks.len()) as u64;
            }
        }
        Ok(())
    }

    async fn read_episodes(&mut self, lake: &Lake, version: Option<u64>) -> Result<(), LakeError> {
        let columns = ScanOptions::columns(["game_id", "seat", "incomplete"]);
        let options = ScanOptions { version, ..columns };
        let mut batches = lake.table(TableName::Episodes).scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (game_id, seat) = (column("game_id").as_string::<i32>(), column("seat").as_string::<i32>());
            let incomplete = column("incomplete").as_boolean();
            for row in 0..batch.num_rows() {
                let game = self.game(game_id.value(row));
                game.episodes += 1;
                game.incomplete |= incomplete.is_valid(row) && incomplete.value(row);
                if !game.seats.insert(seat.value(row).to_owned()) {
                    game.doubled_seats += 1;
                }
            }
        }
        Ok(())
    }

    async fn read_dead_letters(&mut self, lake: &Lake) -> Result<(), LakeError> {
        let options = ScanOptions::columns(["flow", "topic", "partition", "offset"]);
        let mut batches = lake.table(TableName::DeadLetters).scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (flow, topic) = (column("flow").as_string::<i32>(), column("topic").as_string::<i32>());
            let partition = column("partition").as_primitive::<Int32Type>();
            let offset = column("offset").as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                if flow.value(row) == "land" {
                    let place = (topic.value(row).to_owned(), partition.value(row) as u32, offset.value(row));
                    *self.dead.entry(place).or_default() += 1;
                } else if flow.value(row) != REPLAY {
                    self.dead_elsewhere += 1;
                }
            }
        }
        Ok(())
    }

    fn game(&mut self, id: &str) -> &mut StoredGame {
        if !self.games.contains_key(id) {
            self.games.insert(id.to_owned(), StoredGame::default());
        }
        self.games.get_mut(id).expect("just inserted")
    }
}
