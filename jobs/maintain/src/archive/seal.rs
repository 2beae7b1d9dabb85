//! Whether a day may leave the table.

use std::collections::BTreeMap;

use arrow::{
    array::AsArray,
    datatypes::{Int32Type, Int64Type},
};
use flywheel_lake::DataFile;
use futures::TryStreamExt;

use super::{Archive, ArchivingError, Day, manifest::Extent, topic_of};

pub(crate) enum Verdict {
    Sealed,
    Waits(String),
}

impl Archive {
    /// A day is sealed when every consumer of the log is past its last row: what is landed is landed, and no game that is
    /// still open reaches into it.
    pub(super) async fn weigh(
        &self,
        day: &Day,
        files: &[DataFile],
        restored_too: bool,
    ) -> Result<Verdict, ArchivingError> {
        let [archived, restored] = self.positions(day).await?;
        if archived > 0 && archived == restored && !restored_too {
            return Ok(Verdict::Waits("it was restored; `--restored` archives it again".to_owned()));
        }
        let Some(topic) = topic_of(&day.system) else {
            return Ok(Verdict::Waits(format!("`{}` is no system that this program knows", day.system)));
        };
        for (partition, extent) in self.extents(files).await? {
            for (table, app_id) in (self.config.consumers)(&topic, partition) {
                let position = self.lake.table(table).position(&app_id).await?;
                if position.is_none_or(|position| position < extent.last_offset) {
                    let at = position.map_or("nowhere yet".to_owned(), |position| format!("at offset {position}"));
                    return Ok(Verdict::Waits(format!(
                        "its last row of partition {partition} has offset {}, and `{app_id}` stands {at}",
                        extent.last_offset
                    )));
                }
            }
        }
        Ok(Verdict::Sealed)
    }

    async fn extents(&self, files: &[DataFile]) -> Result<BTreeMap<u32, Extent>, ArchivingError> {
        let mut extents = BTreeMap::new();
        let mut batches = self.table.scan_files(files.to_vec(), &["partition", "offset"])?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let partition = column("partition").as_primitive::<Int32Type>();
            let offset = column("offset").as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                Extent::grow(&mut extents, partition.value(row) as u32, offset.value(row));
            }
        }
        Ok(extents)
    }
}
