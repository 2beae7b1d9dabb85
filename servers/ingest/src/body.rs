//! Reading a body under the bound of what is in flight.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use metrics::gauge;

use crate::{
    IngestConfig, Problem,
    inflate::{Encoding, inflate},
    metrics::IN_FLIGHT,
};

/// Bytes that are in memory for requests and frames not yet answered.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    retry_after_s: u64,
    used: AtomicUsize,
}

impl Budget {
    pub fn new(config: &IngestConfig) -> Arc<Self> {
        Arc::new(Self { limit: config.in_flight_bytes, retry_after_s: config.retry_after_s, used: AtomicUsize::new(0) })
    }

    pub fn ticket(self: &Arc<Self>) -> Ticket {
        Ticket { budget: Arc::clone(self), held: 0 }
    }
}

/// One request's share of the budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    budget: Arc<Budget>,
    held: usize,
}

impl Ticket {
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let budget = &self.budget;
        let take = |used: usize| used.checked_add(bytes).filter(|used| *used <= budget.limit);
        if budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            let detail = format!("{} bytes of other requests are under way; nothing was appended", budget.limit);
            return Err(Problem::busy(budget.retry_after_s, detail));
        }
        self.held += bytes;
        gauge!(IN_FLIGHT).increment(bytes as f64);
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::AcqRel);
        gauge!(IN_FLIGHT).decrement(self.held as f64);
    }
}

/// The whole body, inflated, with its share of the budget.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    config: &IngestConfig,
    mut ticket: Ticket,
) -> Result<(Bytes, Ticket), Problem> {
    let encoding = Encoding::of(headers)?;
    let too_large = || {
        let detail = format!("the body is longer than {} bytes; nothing was appended", config.body_bytes);
        Problem::too_large("body_too_large", detail).hint("send fewer events in one request")
    };
    // Who says so is refused before the first byte is read.
    let announced = headers.get(axum::http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > config.body_bytes as u64) {
        return Err(too_large());
    }
    let gather = async {
        let mut stream = body.into_data_stream();
        let mut gathered = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|error| Problem::bad_request("body_broken", format!("the body broke off: {error}")))?;
            if gathered.len() + chunk.len() > config.body_bytes {
                return Err(too_large());
            }
            ticket.grow(chunk.len())?;
            gathered.extend_from_slice(&chunk);
        }
        Ok((gathered.freeze(), ticket))
    };
    let (sent, mut ticket) = tokio::time::timeout(config.body_wait(), gather).await.map_err(|_| {
        let detail = format!("the body was not complete within {} ms", config.body_ms);
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The request is too slow", "body_too_slow", detail)
    })??;
    if encoding == Encoding::Identity {
        return Ok((sent, ticket));
    }
    let limit = config.inflated_bytes;
    tokio::task::spawn_blocking(move || {
        let inflated = inflate(&sent, encoding, limit, |bytes| ticket.grow(bytes))?;
        Ok((Bytes::from(inflated), ticket))
    })
    .await
    .expect("inflating does not panic")
}
