//! Undoing gzip and zstd without believing what they say about their size.

use std::io::{self, Read};

use axum::http::{HeaderMap, header};

use crate::Problem;

/// zstd frames that ask for a larger window than 8 MiB are refused; it is memory before the first byte comes out.
const WINDOW_LOG_MAX: u32 = 23;
const STEP: usize = 64 << 10;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let text = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
        match (text.as_str(), values.next()) {
            ("" | "identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("zstd", None) => Ok(Self::Zstd),
            _ => Err(Problem::unsupported("content_encoding", format!("content-encoding `{text}` is not undone here"))
                .hint("send gzip, zstd or nothing, one of them only")),
        }
    }
}

/// Inflates `body` to at most `limit` bytes. `grow` is told of each step before it is kept, and may refuse it.
pub(crate) fn inflate(
    body: &[u8],
    encoding: Encoding,
    limit: usize,
    mut grow: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<Vec<u8>, Problem> {
    let broken = |error: io::Error| {
        let detail = format!("the body does not inflate: {error}");
        Problem::bad_request("bad_compression", detail)
    };
    let mut reader: Box<dyn Read + '_> = match encoding {
        Encoding::Identity => Box::new(body),
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(broken)?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
            Box::new(decoder)
        }
    };
    let mut out = Vec::new();
    loop {
        let before = out.len();
        grow(STEP)?;
        let read = reader.by_ref().take(STEP as u64).read_to_end(&mut out).map_err(broken)?;
        if out.len() > limit {
            return Err(Problem::too_large(
                "inflated_too_large",
                format!("{} bytes inflate to more than {limit}; nothing was appended", body.len()),
            )
            .hint("send fewer events in one request"));
        }
        if read == 0 || out.len() == before {
            return Ok(out);
        }
    }
}
