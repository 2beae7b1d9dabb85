//! What is known of a table: its newest version, files and positions, followed commit by commit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use deltalake::{
    DeltaTable,
    kernel::{Action, Version},
};
use flywheel_tables::{PARTITION_COLUMNS, TableName, schema};

use crate::{DataFile, LakeError, LakeErrorKind, table::FORMAT};

const FORMAT_KEY: &str = "flywheel.format";

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub version: Version,
    pub files: BTreeMap<String, Arc<DataFile>>,
    /// Application ids that were looked up or committed since; absent ones are asked for in the log.
    pub positions: HashMap<String, Option<i64>>,
    pub followed_at: Instant,
}

impl State {
    /// # Errors
    /// `Unsupported` if the table needs more of a program than this one can do.
    pub fn of(name: TableName, table: &DeltaTable) -> Result<Self, LakeError> {
        let snapshot = table.snapshot().map_err(|e| LakeError::delta("reading the state of", name, e))?;
        check_protocol(name, snapshot.protocol().min_reader_version(), snapshot.protocol().min_writer_version())?;
        check_metadata(name, snapshot)?;
        let log = snapshot.log_data();
        let files = log.iter().map(|view| {
            let file = DataFile::from_view(&view);
            (file.path.clone(), Arc::new(file))
        });
        Ok(Self {
            version: snapshot.version(),
            files: files.collect(),
            positions: HashMap::new(),
            followed_at: Instant::now(),
        })
    }

    /// Takes the next commit. `false` if it changes what the table *is*: then it must be read afresh.
    pub fn apply(&mut self, version: Version, actions: &[Action]) -> bool {
        if actions.iter().any(|a| matches!(a, Action::Protocol(_) | Action::Metadata(_))) {
            return false;
        }
        for action in actions {
            match action {
                Action::Add(add) => {
                    self.files.insert(add.path.clone(), Arc::new(DataFile::from_add(add)));
                }
                Action::Remove(remove) => {
                    self.files.remove(&remove.path);
                }
                Action::Txn(txn) => {
                    self.positions.insert(txn.app_id.clone(), Some(txn.version));
                }
                _ => {}
            }
        }
        self.version = version;
        true
    }
}

fn check_protocol(name: TableName, reader: i32, writer: i32) -> Result<(), LakeError> {
    if reader <= 1 && writer <= 2 {
        return Ok(());
    }
    let why = format!(
        "it needs Delta reader {reader} and writer {writer}, this program does reader 1 and writer 2; \
         nothing was written: use the newer program that made it"
    );
    Err(LakeError::new(LakeErrorKind::Unsupported, "opening table", name, why))
}

fn check_metadata(name: TableName, snapshot: &deltalake::table::state::DeltaTableState) -> Result<(), LakeError> {
    let unsupported = |why: String| Err(LakeError::new(LakeErrorKind::Unsupported, "opening table", name, why));
    let metadata = snapshot.metadata();
    let format = metadata.configuration().get(FORMAT_KEY).map_or("0", String::as_str);
    if format.parse::<u32>().map_or(true, |format| format > FORMAT) {
        return unsupported(format!(
            "its format is {format}, this program knows up to {FORMAT}; nothing was written: use the newer program \
             that made it"
        ));
    }
    if metadata.partition_columns().iter().map(String::as_str).ne(PARTITION_COLUMNS) {
        return unsupported(format!("it is partitioned by {:?}", metadata.partition_columns()));
    }
    let expected = crate::table::delta_fields(&schema(name));
    let found: Vec<_> = snapshot.schema().fields().cloned().collect();
    for field in &expected {
        match found.iter().find(|f| f.name() == field.name()) {
            None => return unsupported(format!("it has no column `{}`", field.name())),
            Some(f) if f.data_type() != field.data_type() => {
                return unsupported(format!(
                    "its column `{}` is {}, not {}",
                    field.name(),
                    f.data_type(),
                    field.data_type()
                ));
            }
            Some(_) => {}
        }
    }
    if let Some(extra) = found.iter().find(|f| !f.is_nullable() && expected.iter().all(|e| e.name() != f.name())) {
        return unsupported(format!("it demands a column `{}` that this program does not write", extra.name()));
    }
    Ok(())
}
