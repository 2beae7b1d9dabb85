//! Tables in a bucket know which log they were written from.
//!
//! Positions in the tables mean offsets of one log. In a data folder log and tables lie together; with tables in a
//! bucket a new data folder would bring a new log, whose first events the old positions would skip.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use anyhow::{Context, bail};
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::{Bucket, explained::said};

/// The object below the prefix.
const NAME: &str = "flywheel.json";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    format: u32,
    /// The log from which the tables are written.
    log: String,
}

/// The name of the log in `folder`: made when first asked for, and gone when the folder is.
pub(crate) fn log_id(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("reading `{}`", path.display()));
        }
        _ => {}
    }
    let id = uuid::Uuid::new_v4().to_string();
    let made = || -> std::io::Result<()> {
        let temporary = folder.join("id.tmp");
        let mut file = File::create(&temporary)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    made().with_context(|| format!("writing `{}`", path.display()))?;
    Ok(id)
}

impl Bucket {
    /// Says that the tables here are written from `log`, or sees that they are.
    ///
    /// # Errors
    /// If they are written from another log, or by a newer program.
    pub(crate) async fn claim(&self, log: &str) -> anyhow::Result<()> {
        let path = self.path(NAME);
        let ours = serde_json::to_vec(&Claim { format: FORMAT, log: log.to_owned() }).context("encoding the claim")?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.store().put_opts(&path, ours.into(), options).await;
        if let Err(error) = &put
            && !matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
        {
            return Err(said(error).context(format!("writing `{NAME}` to `{self}`")));
        }
        let read = async { self.store().get(&path).await?.bytes().await };
        let found = read.await.map_err(|error| said(&error).context(format!("reading `{NAME}` of `{self}`")))?;
        let claim: Claim = serde_json::from_slice(&found)
            .with_context(|| format!("`{NAME}` of `{self}` is none of ours; name another prefix with `store.url`"))?;
        if claim.format > FORMAT {
            bail!("`{self}` was written by a newer program (format {}); use that one", claim.format);
        }
        if claim.log != log {
            bail!(
                "`{self}` holds the tables of another log ({}, not {log}): by its positions events of this one would \
                 be skipped; name another prefix with `store.url`, or start on the data folder that wrote it",
                claim.log
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_name_and_another_folder_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = log_id(one.path()).unwrap();
        assert_eq!(log_id(one.path()).unwrap(), id);
        assert_ne!(log_id(two.path()).unwrap(), id);
        assert!(log_id(&one.path().join("nowhere")).unwrap_err().to_string().contains("nowhere/id"));
    }
}
