//! Results go to standard output, everything else to standard error.

use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::Global;

/// Logs go to standard error: for people on a terminal, as JSON lines otherwise.
pub fn init_logs(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info,sqlx=warn",
        _ => "debug,sqlx=info,hyper=info",
    };
    let filter = EnvFilter::try_from_env("FLYWHEEL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().init();
    }
}

/// Prints one JSON value, or rows as a table.
pub fn print<T: Serialize>(global: &Global, value: &T, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    if global.json {
        anstream::println!("{}", serde_json::to_string_pretty(value).expect("results serialise"));
        return;
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled).set_header(head.to_vec());
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row);
    }
    if any {
        anstream::println!("{table}");
    } else {
        anstream::eprintln!("nothing yet");
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds since 1970 as text in UTC.
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| format!("{t:.0}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_for_people() {
        assert_eq!(super::thousands(0), "0");
        assert_eq!(super::thousands(999), "999");
        assert_eq!(super::thousands(12_400), "12,400");
        assert_eq!(super::thousands(1_234_567), "1,234,567");
    }
}
