//! One day goes to the archive: copied, sealed, and only then taken out of the table.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{
    array::AsArray,
    datatypes::{Int32Type, Int64Type},
};
use bytes::Bytes;
use flywheel_archive::{ArchiveErrorKind, Put, Temper, keep, sha256, verify};
use flywheel_lake::{Advance, DataFile, LakeErrorKind};
use futures::TryStreamExt;

use super::{
    Archive, ArchivingError, Day, DayReport, app_ids,
    manifest::{ArchivedFile, Book, BookGame, BookName, Extent, FORMAT, Manifest},
    names::Names,
    now_ms,
};
use crate::{games::content, seqs::Seqs};

/// A merge may take the files of a day while they are copied; more often than this, something is wrong with the day.
const ATTEMPTS: usize = 8;
const COLUMNS: [&str; 6] = ["game_id", "seq", "kind", "payload", "partition", "offset"];

/// What is gathered of a day while its files are copied.
#[derive(Default)]
struct Gathered {
    games: BTreeMap<String, (Seqs, BookGame)>,
    partitions: BTreeMap<u32, Extent>,
}

impl Archive {
    /// Moves what the table holds of a day; a report for each manifest that came of it.
    ///
    /// The caller has seen that the day is sealed. Late rows may still come: they are a manifest of their own.
    pub(super) async fn archive_day(&self, day: &Day) -> Result<Vec<DayReport>, ArchivingError> {
        let mut reports = Vec::new();
        for _ in 0..ATTEMPTS {
            // Attempts before files: an attempt that is listed names files that were there before this look at them.
            let numbers = Names::manifests(&*self.store, day).await?;
            let [archived, _] = self.positions(day).await?;
            let pending: Vec<u64> = numbers.iter().copied().filter(|number| *number > archived).collect();
            let files = self.files_of(day).await?;
            if files.is_empty() && pending.is_empty() {
                return Ok(reports);
            }
            let manifest = match self.unfinished(day, &pending, &files).await? {
                Some(manifest) => manifest,
                None if files.is_empty() => return Ok(reports),
                None => {
                    let number = numbers.last().copied().unwrap_or(0).max(archived) + 1;
                    match self.copy(day, number, pending).await? {
                        Some(manifest) => manifest,
                        None => continue,
                    }
                }
            };
            if self.carry_out(day, archived, &manifest).await? {
                reports.push(DayReport {
                    day: day.clone(),
                    rows: manifest.rows,
                    bytes: manifest.bytes,
                    files: manifest.files.len(),
                    manifest: Some(Names::manifest(day, manifest.number)),
                });
            }
        }
        if self.files_of(day).await?.is_empty() { Ok(reports) } else { Err(ArchivingError::Restless(day.clone())) }
    }

    async fn files_of(&self, day: &Day) -> Result<Vec<DataFile>, ArchivingError> {
        let files = self.table.files().await?;
        Ok(files.into_iter().filter(|file| file.system == day.system && file.dt == day.dt).collect())
    }

    /// The newest attempt, if it can be carried out: all its files are in the table, and in the archive.
    async fn unfinished(
        &self,
        day: &Day,
        pending: &[u64],
        files: &[DataFile],
    ) -> Result<Option<Manifest>, ArchivingError> {
        let Some(newest) = pending.last() else { return Ok(None) };
        let manifest = Manifest::read(&*self.store, day, *newest).await?;
        let there: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        if !manifest.files.iter().all(|archived| there.contains(archived.file.path.as_str())) {
            return Ok(None);
        }
        for ArchivedFile { object, sha256, file } in &manifest.files {
            verify(&*self.store, object, Some(file.bytes), sha256).await?;
        }
        verify(&*self.store, &manifest.book.object, None, &manifest.book.sha256).await?;
        tracing::info!(%day, number = newest, "an archiving that was cut off goes on");
        Ok(Some(manifest))
    }

    /// Copies the day and seals it as `number`. `None` if somebody else took the number, or the files.
    async fn copy(&self, day: &Day, number: u64, replaces: Vec<u64>) -> Result<Option<Manifest>, ArchivingError> {
        self.table.compact_day(&day.system, &day.dt, self.config.target_bytes).await?;
        let table_version = self.table.version().await?.unwrap_or(0);
        let (files, mut gathered) = (self.files_of(day).await?, Gathered::default());
        let mut copied = Vec::with_capacity(files.len());
        for file in files {
            let bytes = match self.table.file_bytes(&file).await {
                // Merged by somebody else, and vacuumed since.
                Err(error) if error.kind() == LakeErrorKind::NotFound => return Ok(None),
                bytes => bytes?,
            };
            self.gather(&file, bytes.clone(), &mut gathered).await?;
            let sha256 = sha256(&bytes);
            let object = Names::file(day, &sha256);
            keep(&*self.store, &object, bytes, Temper::Cold).await?;
            copied.push(ArchivedFile { object, sha256, file });
        }
        let manifest = Manifest {
            format: FORMAT,
            table: "events".to_owned(),
            system: day.system.clone(),
            dt: day.dt.clone(),
            number,
            replaces,
            made_ms: now_ms(),
            table_version,
            rows: copied.iter().map(|copied| copied.file.rows).sum(),
            bytes: copied.iter().map(|copied| copied.file.bytes).sum(),
            partitions: std::mem::take(&mut gathered.partitions),
            files: copied,
            book: self.keep_book(day, gathered).await?,
        };
        // The seal, last: it names what was looked at.
        let text = Bytes::from(serde_json::to_vec_pretty(&manifest).expect("a manifest serialises"));
        match keep(&*self.store, &Names::manifest(day, number), text, Temper::Warm).await {
            Ok(Put::Done | Put::There) => Ok(Some(manifest)),
            // Another process sealed its own copy under this number.
            Err(error) if error.kind() == ArchiveErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Enters the rows of a file into the book.
    async fn gather(&self, file: &DataFile, bytes: Bytes, gathered: &mut Gathered) -> Result<(), ArchivingError> {
        let mut batches = self.table.decode_file(file, bytes, &COLUMNS)?;
        let mut rows = 0;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let text = |name| column(name).as_string::<i32>();
            let (game_id, kind, payload) = (text("game_id"), text("kind"), text("payload"));
            let (seq, offset) =
                (column("seq").as_primitive::<Int64Type>(), column("offset").as_primitive::<Int64Type>());
            let partition = column("partition").as_primitive::<Int32Type>();
            rows += batch.num_rows() as u64;
            for row in 0..batch.num_rows() {
                let id = game_id.value(row);
                if !gathered.games.contains_key(id) {
                    gathered.games.insert(id.to_owned(), Default::default());
                }
                let (seqs, game) = gathered.games.get_mut(id).expect("just inserted");
                let number = seq.value(row) as u64;
                game.rows += 1;
                if seqs.insert(number) {
                    game.content = game.content.wrapping_add(content(number, kind.value(row), payload.value(row)));
                }
                Extent::grow(&mut gathered.partitions, partition.value(row) as u32, offset.value(row));
            }
        }
        if rows == file.rows {
            return Ok(());
        }
        let why = format!("it holds {rows} rows; its commit says {}", file.rows);
        Err(ArchivingError::Unreadable { object: format!("{} of the table", file.path), why })
    }

    async fn keep_book(&self, day: &Day, gathered: Gathered) -> Result<BookName, ArchivingError> {
        let games = gathered.games.into_iter();
        let games: BTreeMap<_, _> =
            games.map(|(id, (seqs, game))| (id, BookGame { seqs: seqs.ranges().to_vec(), ..game })).collect();
        let (n_games, book) = (games.len() as u64, Book { games });
        let text = serde_json::to_vec(&book).expect("a book serialises");
        let packed = zstd::bulk::compress(&text, 3).expect("memory takes what it holds already, packed");
        let packed = Bytes::from(packed);
        let sha256 = sha256(&packed);
        let object = Names::book(day, &sha256);
        keep(&*self.store, &object, packed, Temper::Warm).await?;
        Ok(BookName { object, sha256, games: n_games })
    }

    /// Takes what a manifest holds out of the table. `false` if somebody else was faster with this or a later one, or
    /// changed the files.
    async fn carry_out(&self, day: &Day, archived: u64, manifest: &Manifest) -> Result<bool, ArchivingError> {
        let files: Vec<DataFile> = manifest.files.iter().map(|archived| archived.file.clone()).collect();
        let [app_id, _] = app_ids(day);
        let before = (archived > 0).then_some(archived as i64);
        let advance = [Advance::new(app_id, before, manifest.number as i64)];
        let note = format!("archived as {} of {}", Names::manifest(day, manifest.number), self.store.place());
        match self.table.take_out(&files, &advance, &note).await {
            Ok(commit) if commit.skipped => Ok(false),
            Ok(commit) => {
                tracing::info!(%day, version = commit.version, rows = commit.rows, "archived");
                metrics::counter!(crate::metrics::ARCHIVED_ROWS).increment(manifest.rows);
                metrics::counter!(crate::metrics::ARCHIVED_BYTES).increment(manifest.bytes);
                Ok(true)
            }
            Err(error) if error.kind() == LakeErrorKind::Moved => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
