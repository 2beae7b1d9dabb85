use arrow::json::LineDelimitedWriter;
use flywheel_lake::{CompactOptions, Lake, ScanOptions, Table};
use flywheel_tables::TableName;
use futures::StreamExt;
use serde::Serialize;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::{self, thousands},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List tables with rows, files and bytes
    Ls,
    /// List the newest commits of a table
    History {
        table: String,
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
    /// Print rows as JSON lines
    Scan {
        table: String,
        /// Only these columns, separated by commas
        #[arg(long, value_delimiter = ',')]
        columns: Vec<String>,
        /// Read this older version
        #[arg(long, value_name = "VERSION")]
        as_of: Option<u64>,
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
    /// Rewrite small files as large ones; readers see the same rows
    Compact {
        /// All tables when left out
        table: Option<String>,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    table: String,
    version: Option<u64>,
    rows: u64,
    files: usize,
    bytes: u64,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let lake = crate::systems::open_lake(&config).await?;
    match command {
        Command::Ls => ls(global, &lake).await,
        Command::History { table, count } => history(global, &lake.table(name(&table)?), count).await,
        Command::Scan { table, columns, as_of, count } => scan(&lake.table(name(&table)?), columns, as_of, count).await,
        Command::Compact { table, dry_run } => {
            let tables = match table {
                Some(table) => vec![name(&table)?],
                None => TableName::ALL.to_vec(),
            };
            for table in tables {
                compact(global, &lake.table(table), dry_run).await?;
            }
            Ok(())
        }
    }
}

fn name(text: &str) -> Result<TableName, Failure> {
    TableName::ALL.into_iter().find(|table| table.as_str() == text).ok_or_else(|| {
        let known: Vec<_> = TableName::ALL.iter().map(|table| table.as_str()).collect();
        Failure::msg(Code::NotFound, format!("there is no table `{text}`"))
            .hint(format!("known tables: {}", known.join(", ")))
    })
}

async fn ls(global: &Global, lake: &Lake) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for table in TableName::ALL {
        let files = lake.table(table).files().await?;
        rows.push(Row {
            table: table.as_str().to_owned(),
            version: lake.table(table).version().await?,
            rows: files.iter().map(|file| file.rows).sum(),
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
        });
    }
    let lines: Vec<_> = rows
        .iter()
        .map(|r| {
            let version = r.version.map_or_else(|| "-".to_owned(), |v| v.to_string());
            vec![r.table.clone(), version, thousands(r.rows), r.files.to_string(), thousands(r.bytes)]
        })
        .collect();
    output::print(global, &rows, &["table", "version", "rows", "files", "bytes"], lines);
    Ok(())
}

async fn history(global: &Global, table: &Table, count: usize) -> Result<(), Failure> {
    let entries = table.history(count).await?;
    let lines: Vec<_> = entries
        .iter()
        .map(|e| {
            let positions: Vec<_> = e.positions.iter().map(|(app, at)| format!("{app}={at}")).collect();
            vec![
                e.version.to_string(),
                output::time(e.timestamp_ms),
                e.operation.clone(),
                format!("+{} -{}", e.files_added, e.files_removed),
                thousands(e.rows_added),
                positions.join(" "),
            ]
        })
        .collect();
    output::print(global, &entries, &["version", "time", "operation", "files", "rows", "positions"], lines);
    Ok(())
}

async fn scan(table: &Table, columns: Vec<String>, as_of: Option<u64>, count: usize) -> Result<(), Failure> {
    let name = table.name().as_str();
    let Some(newest) = table.version().await? else {
        return Err(Failure::msg(Code::NotFound, format!("table `{name}` has no rows yet")).hint(
            "it gets its first when the loop has something to write there; `flywheel table ls` says what there is",
        ));
    };
    if let Some(version) = as_of.filter(|version| *version > newest) {
        return Err(Failure::msg(Code::NotFound, format!("table `{name}` has no version {version}"))
            .hint(format!("its newest is {newest}; `flywheel table history {name}` lists them")));
    }
    let schema = flywheel_tables::schema(table.name());
    if let Some(column) = columns.iter().find(|column| schema.field_with_name(column).is_err()) {
        let known: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(Failure::msg(Code::NotFound, format!("table `{name}` has no column `{column}`"))
            .hint(format!("its columns: {}", known.join(", "))));
    }
    let options =
        ScanOptions { version: as_of, columns: (!columns.is_empty()).then_some(columns), ..ScanOptions::default() };
    let mut left = count;
    let mut batches = std::pin::pin!(table.scan_stream(options).await?);
    while let (true, Some(batch)) = (left > 0, batches.next().await) {
        let batch = batch?;
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        let mut lines = LineDelimitedWriter::new(Vec::new());
        lines.write(&batch)?;
        lines.finish()?;
        output::raw(&lines.into_inner());
    }
    Ok(())
}

async fn compact(global: &Global, table: &Table, dry_run: bool) -> Result<(), Failure> {
    let options = CompactOptions::default();
    let name = table.name().as_str();
    if dry_run {
        let small: Vec<_> =
            table.files().await?.into_iter().filter(|file| file.bytes < options.target_bytes / 2).collect();
        let bytes: u64 = small.iter().map(|file| file.bytes).sum();
        if global.json {
            crate::output::out!(
                "{}",
                serde_json::json!({"table": name, "dry_run": true, "small_files": small.len(), "small_bytes": bytes})
            );
            return Ok(());
        }
        crate::output::out!("{name}: {} small files of {} bytes would be merged", small.len(), thousands(bytes));
        return Ok(());
    }
    let report = table.compact_with(&options).await?;
    if global.json {
        crate::output::out!("{}", serde_json::json!({"table": name, "report": report}));
    } else {
        crate::output::out!(
            "{name}: {} files became {}, {} bytes read, {} written",
            report.files_before,
            report.files_after,
            thousands(report.bytes_read),
            thousands(report.bytes_written)
        );
    }
    Ok(())
}
