//! Where runs are kept: a file in the data folder, or a PostgreSQL database.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flywheel_catalog::Catalog;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::without_credentials;

/// The section `[catalog]`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogConfig {
    /// Where runs are kept: `sqlite:` is `catalog.sqlite` in the data folder, `sqlite:PATH` another file,
    /// `postgres://user@host:port/database?password.env=NAME` a database of this loop's own; `password.file=PATH` and
    /// libpq's settings (`sslmode`, …) go there too. A password in the URL itself is refused.
    pub url: String,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self { url: "sqlite:".to_owned() }
    }
}

enum Place {
    File(PathBuf),
    Server(String),
}

impl CatalogConfig {
    /// What does not fit, for the configuration's check.
    pub fn problems(&self) -> Vec<String> {
        self.place(Path::new("")).err().map(|error| format!("{error:#}")).into_iter().collect()
    }

    /// Whether runs are kept in a file.
    pub fn is_local(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// That file; `None` for a database of a server.
    pub fn file(&self, data: &Path) -> Option<PathBuf> {
        match self.place(data) {
            Ok(Place::File(file)) => Some(file),
            _ => None,
        }
    }

    /// Where that is, for people.
    pub fn shown(&self) -> String {
        let at = without_credentials(&self.url);
        at.split('?').next().unwrap_or_default().to_owned()
    }

    fn place(&self, data: &Path) -> anyhow::Result<Place> {
        let form = "expected `sqlite:`, `sqlite:PATH` or `postgres://user@host:port/database`";
        match self.url.split_once(':') {
            Some(("sqlite", "")) => Ok(Place::File(data.join("catalog.sqlite"))),
            Some(("sqlite", path)) => Ok(Place::File(PathBuf::from(path.trim_start_matches("//")))),
            Some(("postgres" | "postgresql", _)) => match Url::parse(&self.url) {
                // It is printed, and handed to the trainer where every user of the machine can see it.
                Ok(url) if url.password().is_some() => bail!(
                    "catalog.url `{}` holds a password; put it into a variable or a file and write \
                     `?password.env=NAME` or `?password.file=PATH`",
                    self.shown()
                ),
                Ok(_) => Ok(Place::Server(self.url.clone())),
                Err(error) => bail!("catalog.url is no address ({error}); {form}"),
            },
            _ => bail!("catalog.url is `{}`; {form}", self.shown()),
        }
    }

    /// Opens it, creating and migrating it as needed.
    ///
    /// # Errors
    /// If it cannot be opened or migrated: the message says where and which setting to look at.
    pub async fn open(&self, data: &Path) -> anyhow::Result<Catalog> {
        match self.place(data)? {
            Place::File(file) => {
                Catalog::open(&file).await.with_context(|| format!("opening the catalog `{}`", file.display()))
            }
            Place::Server(url) => Catalog::connect(&url).await.context("opening the catalog on PostgreSQL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(url: &str) -> String {
        let problems = CatalogConfig { url: url.to_owned() }.problems();
        assert_eq!(problems.len(), 1, "{url}");
        problems.concat()
    }

    #[test]
    fn what_is_no_catalog_is_named_and_a_password_is_refused_and_not_repeated() {
        assert!(CatalogConfig::default().problems().is_empty());
        for url in ["sqlite:/somewhere/runs.sqlite", "postgres://me@db/runs?password.env=PW", "postgresql://db/runs"] {
            assert!(CatalogConfig { url: url.to_owned() }.problems().is_empty(), "{url}");
        }
        let refused = problem("postgres://me:s3cret@db:5432/runs?sslmode=require");
        assert!(refused.contains("password.env=NAME") && refused.contains("@db:5432/runs`"), "{refused}");
        let unknown = problem("mysql://me:s3cret@db/runs");
        assert!(unknown.contains("mysql://…@db/runs") && unknown.contains("expected `sqlite:`"), "{unknown}");
        for said in [refused, unknown, problem("postgres://me:s3cret@db:port/runs")] {
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[tokio::test]
    async fn the_default_lies_in_the_data_folder_and_a_path_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        CatalogConfig::default().open(folder.path()).await.unwrap();
        assert!(folder.path().join("catalog.sqlite").is_file());
        let other = folder.path().join("runs.sqlite");
        let config = CatalogConfig { url: format!("sqlite:{}", other.display()) };
        config.open(Path::new("/nowhere")).await.unwrap();
        assert!(other.is_file());
        let away = CatalogConfig { url: "postgres://me@127.0.0.1:1/runs".to_owned() };
        let error = format!("{:#}", away.open(folder.path()).await.unwrap_err());
        assert!(error.contains("postgres://127.0.0.1:1/runs") && error.contains("catalog.url"), "{error}");
    }
}
