//! Results go to standard output, everything else to standard error.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

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
    // The Delta libraries log as errors what they also return, such as a table that is not there yet, or that another
    // process has made first.
    let quiet_kernel = format!("{level},buoyant_kernel=off,deltalake_core::kernel::transaction=off");
    let filter = EnvFilter::try_from_env("FLYWHEEL_LOG").unwrap_or_else(|_| EnvFilter::new(quiet_kernel));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.json().init();
    }
}

/// Prints a line of a result; `out!` formats it.
pub fn line(text: fmt::Arguments<'_>) {
    let mut stdout = anstream::stdout();
    read_on(writeln!(stdout, "{text}"));
}

/// Prints bytes of a result as they are.
pub fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    read_on(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Ends the program quietly where nobody reads its results any more (`flywheel log tail | head`).
fn read_on(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            remark(format_args!("error: writing the result to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// Says a line on standard error; `note!` formats it. That nobody listens any more ends nothing.
pub fn remark(text: fmt::Arguments<'_>) {
    let _nobody_listens = writeln!(anstream::stderr(), "{text}");
}

/// As `println!`, but without a panic when the reader is gone.
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}

/// As `eprintln!`, but without a panic when the reader is gone.
macro_rules! note {
    ($($arg:tt)*) => { $crate::output::remark(format_args!($($arg)*)) };
}

pub(crate) use {note, out};

/// Prints one JSON value, or rows as a table.
pub fn print<T: Serialize>(global: &Global, value: &T, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    if global.json {
        out!("{}", serde_json::to_string_pretty(value).expect("results serialise"));
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
        out!("{table}");
    } else {
        note!("nothing yet");
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
