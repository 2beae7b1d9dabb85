//! What can go wrong when the AI backend starts or asks somebody.

/// Why the AI backend did not start, or an answer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the setting `{setting}` is {value}; expected {expected}")]
    Setting { setting: &'static str, value: String, expected: String },
    #[error("{operation} at `{target}`: {reason}")]
    Request { operation: &'static str, target: String, reason: String },
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}
