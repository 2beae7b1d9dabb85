//! One statement on either database: numbered parameters, rows of `runs` or of `source_keys`.

use sqlx::{PgPool, Postgres, Row, Sqlite, SqlitePool};

use crate::{
    Run,
    keys::KeyColumns,
    runs::{Columns, run_of},
};

/// A value of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<Option<String>> for Value {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

/// Where the tables are. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// `sqlx` has a type for each database, and these two have no trait in common that is worth naming.
macro_rules! fetch {
    ($database:ty, $pool:expr, $statement:expr, $values:expr, $row:ident => $read:expr) => {{
        let mut query = sqlx::query::<$database>(sqlx::AssertSqlSafe($statement));
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Int(number) => query.bind(number),
            };
        }
        let mut rows = Vec::new();
        for $row in query.fetch_all($pool).await? {
            rows.push($read);
        }
        Ok(rows)
    }};
}

macro_rules! run {
    ($row:ident) => {
        run_of(Columns {
            id: $row.try_get("id")?,
            kind: $row.try_get("kind")?,
            spec: $row.try_get("spec")?,
            state: $row.try_get("state")?,
            lease_owner: $row.try_get("lease_owner")?,
            lease_until_ms: $row.try_get("lease_until_ms")?,
            fence: $row.try_get("fence")?,
            checkpoint: $row.try_get("checkpoint")?,
            progress: $row.try_get("progress")?,
            error: $row.try_get("error")?,
            created_at_ms: $row.try_get("created_at_ms")?,
            updated_at_ms: $row.try_get("updated_at_ms")?,
        })
    };
}

macro_rules! key {
    ($row:ident) => {
        KeyColumns {
            id: $row.try_get("id")?,
            name: $row.try_get("name")?,
            prefix: $row.try_get("prefix")?,
            secret_sha256: $row.try_get("secret_sha256")?,
            created_at_ms: $row.try_get("created_at_ms")?,
            expires_at_ms: $row.try_get("expires_at_ms")?,
            revoked_at_ms: $row.try_get("revoked_at_ms")?,
            last_used_ms: $row.try_get("last_used_ms")?,
        }
    };
}

impl Database {
    /// Runs `statement`, whose parameters are `$1`, `$2`, …, and reads the rows of `runs` that it returns.
    pub async fn runs(&self, statement: String, values: Vec<Value>) -> Result<Vec<Run>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => fetch!(Sqlite, pool, statement, values, row => run!(row)),
            Self::Postgres(pool) => fetch!(Postgres, pool, statement, values, row => run!(row)),
        }
    }

    /// As [`Database::runs`], of `source_keys`.
    pub async fn keys(&self, statement: String, values: Vec<Value>) -> Result<Vec<KeyColumns>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => fetch!(Sqlite, pool, statement, values, row => key!(row)),
            Self::Postgres(pool) => fetch!(Postgres, pool, statement, values, row => key!(row)),
        }
    }

    /// What makes a subselect for an update pass over rows that another worker is changing. Without it two workers of
    /// PostgreSQL pick the same row, and the one that waited takes it from the one that got it. SQLite has one writer.
    pub fn skipping_locked(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "",
            Self::Postgres(_) => "FOR UPDATE SKIP LOCKED",
        }
    }
}
