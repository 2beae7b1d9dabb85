//! `postgres://[user[:password]@]host[:port]/database?setting=value&…`: where the server is, and how to reach it.

use std::{fmt, fs, str::FromStr};

use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use url::Url;

use crate::{CatalogError, CatalogErrorKind, Description, PATIENCE};

/// A server and its database.
#[derive(Clone)]
pub(crate) struct Server {
    options: PgConnectOptions,
    /// As messages name it: without user and password.
    shown: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Server {
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        // Until it is understood, nothing of it is repeated: a password may stand anywhere.
        let wrong = |shown: &str, why: String| {
            CatalogError::new(CatalogErrorKind::Setting, "reading the catalog's url", shown, why)
        };
        let form = "expected `postgres://user@host:port/database`";
        let mut url = Url::parse(text).map_err(|error| wrong("postgres:…", format!("{error}; {form}")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port().unwrap_or(5432);
        let shown = format!("postgres://{host}:{port}{}", url.path());
        if !matches!(url.scheme(), "postgres" | "postgresql") || host.is_empty() || url.path().len() < 2 {
            return Err(wrong(&shown, form.to_owned()));
        }
        let (mut kept, mut password) = (Vec::new(), None);
        for (name, value) in url.query_pairs() {
            let found = match &*name {
                "password.env" => std::env::var(&*value)
                    .map_err(|error| wrong(&shown, format!("`password.env={value}`: {error}; set that variable")))?,
                "password.file" => fs::read_to_string(&*value)
                    .map_err(|error| wrong(&shown, format!("`password.file={value}`: {error}")))?
                    .trim_end_matches(['\r', '\n'])
                    .to_owned(),
                "password" => {
                    let why = "`password` is not a setting; use `password.env=NAME` or `password.file=PATH`";
                    return Err(wrong(&shown, why.to_owned()));
                }
                _ => {
                    kept.push((name.into_owned(), value.into_owned()));
                    continue;
                }
            };
            if url.password().is_some() || password.is_some() {
                let why = "there are two passwords; keep the one of `password.env=` or `password.file=`";
                return Err(wrong(&shown, why.to_owned()));
            }
            password = Some(found);
        }
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
        let options = PgConnectOptions::from_str(url.as_str())
            .map_err(|error| wrong(&shown, error.to_string()))?
            .application_name("flywheel")
            // What a change that returned survives does not depend on the server's defaults, nor does a wait.
            .options([
                ("synchronous_commit", "on".to_owned()),
                ("statement_timeout", PATIENCE.as_millis().to_string()),
                ("lock_timeout", PATIENCE.as_millis().to_string()),
            ]);
        let options = match password {
            Some(password) => options.password(&password),
            None => options,
        };
        Ok(Self { options, shown })
    }

    pub async fn connect(&self) -> Result<PgPool, CatalogError> {
        // Once without the pool, which would only say that it waited.
        match tokio::time::timeout(PATIENCE, PgConnection::connect_with(&self.options)).await {
            Ok(Ok(connection)) => drop(connection.close().await),
            Ok(Err(error)) => return Err(self.explain(error)),
            Err(_) => return Err(self.explain(sqlx::Error::PoolTimedOut)),
        }
        let pool = PgPoolOptions::new().max_connections(crate::CONNECTIONS).acquire_timeout(PATIENCE);
        Ok(pool.connect_lazy_with(self.options.clone()))
    }

    /// What is wrong, and which part of the setting to correct.
    fn explain(&self, error: sqlx::Error) -> CatalogError {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        let hint = match code.as_str() {
            "28P01" | "28000" => {
                "the server wants another user or password; set `password.env=NAME` or `password.file=PATH` in \
                 `catalog.url`"
            }
            "3D000" => "create that database with `createdb`, or correct `catalog.url`",
            "42501" => "let this user create tables there (`GRANT CREATE, USAGE ON SCHEMA public`)",
            _ => "",
        };
        if hint.is_empty() {
            let why = format!("{error}; is the server running, and is `catalog.url` right?");
            return CatalogError::new(CatalogErrorKind::Unavailable, "connecting to", self, why);
        }
        CatalogError::new(CatalogErrorKind::Setting, "connecting to", self, format!("{error}: {hint}"))
    }
}

pub(crate) async fn described(pool: &PgPool) -> Result<Description, sqlx::Error> {
    let show = async |name: &'static str| -> Result<String, sqlx::Error> {
        sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(pool).await
    };
    let server = format!("PostgreSQL {}", show("server_version").await?);
    let mut risks = Vec::new();
    for name in ["fsync", "full_page_writes"] {
        if show(name).await? != "on" {
            risks.push(format!("`{name}` is off: a loss of power may lose or damage what was written; switch it on"));
        }
    }
    Ok(Description { server, risks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let error = Server::parse(url).err().unwrap_or_else(|| panic!("`{url}` is taken"));
        assert_eq!(error.kind(), CatalogErrorKind::Setting);
        error.to_string()
    }

    #[test]
    fn a_url_says_where_and_no_message_repeats_its_password() {
        let server = Server::parse("postgres://me:s3cret@db.example:6000/runs?sslmode=disable").unwrap();
        assert_eq!(server.to_string(), "postgres://db.example:6000/runs");
        for url in [
            "postgres://me:s3cret@/runs",
            "postgres://me:s3cret@host",
            "postgres://me:s3cret@host:port/runs",
            "mysql://me:s3cret@host/runs",
            "postgres://me:s3cret@host/runs?password=s3cret",
            "postgres://me:s3cret@host/runs?password.env=PATH",
            "postgres://me:s3cret@host/runs?sslmode=s0metimes",
            "s3cret",
        ] {
            assert!(!refused(url).contains("s3cret"), "{}", refused(url));
        }
        assert!(refused("postgres://host/runs?password.env=FLYWHEEL_NO_SUCH_VARIABLE").contains("NO_SUCH_VARIABLE"));
        assert!(refused("postgres://host/runs?password.file=/no/such/file").contains("/no/such/file"));
    }

    #[test]
    fn a_password_comes_from_a_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "s3/cr@t?\n").unwrap();
        let server = Server::parse(&format!("postgres://me@host/runs?password.file={}", file.display())).unwrap();
        // What it connects with can be read back as a URL.
        let url = sqlx::ConnectOptions::to_url_lossy(&server.options);
        assert_eq!((url.username(), url.password()), ("me", Some("s3%2Fcr%40t%3F")));
        assert!(!url.query().unwrap_or_default().contains("password"));
    }
}
