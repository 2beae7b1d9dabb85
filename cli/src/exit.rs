//! What a failure tells people and scripts.

use std::{fmt, process::ExitCode};

/// Exit codes of `flywheel`; 2 (usage) comes from the argument parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Failure = 1,
    Usage = 2,
    Config = 3,
    Unreachable = 4,
    NotFound = 5,
    Conflict = 6,
    CheckFailed = 7,
    Temporary = 75,
}

/// One error with its exit code and what to do about it.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into(), hint: None }
    }

    pub fn msg(code: Code, message: impl fmt::Display) -> Self {
        Self::new(code, anyhow::anyhow!("{message}"))
    }

    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// What to do about it.
    pub fn hinted(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Prints to standard error, as JSON where asked, and gives the exit code.
    pub fn report(self, json: bool) -> ExitCode {
        let message = self.to_string();
        if json {
            let line = serde_json::json!({"error": message, "hint": self.hint, "code": self.code as u8});
            crate::output::note!("{line}");
        } else {
            crate::output::note!("error: {message}");
            if let Some(hint) = self.hint {
                crate::output::note!("  try: {hint}");
            }
        }
        ExitCode::from(self.code as u8)
    }
}

/// Prints what is wrong with the command line, or the help that it asked for, and gives the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    // The flag could not be parsed with the rest, so it is looked for.
    let json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if !error.use_stderr() || !json {
        // As clap would: to standard output what was asked for, to standard error what is wrong.
        let _nobody_listens = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let text = error.render().to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Failure::msg(Code::Usage, message).hint("`flywheel COMMAND --help` lists flags and arguments").report(true)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            // Some errors print their source themselves.
            if !message.ends_with(&text) {
                message.push_str(if message.is_empty() { "" } else { ": " });
                message.push_str(&text);
            }
        }
        f.write_str(&message)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Code::Failure, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Repeating(std::io::Error);

    impl fmt::Display for Repeating {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "opening `x`: {}", self.0)
        }
    }

    impl std::error::Error for Repeating {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cause_that_its_error_tells_already_is_not_told_twice() {
        let failure = || Failure::new(Code::Failure, Repeating(std::io::Error::other("a: b: c")));
        assert_eq!(failure().to_string(), "opening `x`: a: b: c");
        let told = Failure::new(Code::Failure, failure().error.context("starting")).to_string();
        assert_eq!(told, "starting: opening `x`: a: b: c");
    }
}
