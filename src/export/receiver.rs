//! The interface of every receiver.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use http::header::RETRY_AFTER;

use super::event::UsageEvent;
use crate::{Account, http_client::HttpAnswer};

/// A boxed future of a delivery.
pub type ReceiverFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Refusal>, ReceiverError>> + Send + 'a>>;

/// A system outside of the ledger that usage is exported to.
///
/// An event can be delivered more than once. A receiver must know an event again by its
/// [id](UsageEvent::id), and count it once.
pub trait Receiver: fmt::Debug + Send + Sync + 'static {
    /// Delivers events. `Ok` if each of them is safe, or refused: those are returned.
    ///
    /// # Errors
    ///
    /// [`ReceiverError`] if some of them may not be safe: the same events are delivered again after
    /// a pause.
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a>;

    /// Returns a name for messages, without secrets. An export's state belongs to a receiver of
    /// this name.
    fn name(&self) -> String;

    /// Returns the most events of one delivery. Default: 100.
    fn batch_size(&self) -> usize {
        100
    }

    /// Returns how long the receiver knows an event again. An event that may have arrived longer
    /// ago, less an hour (or a quarter of that time), is not delivered again by itself, since it
    /// might count twice. Default: `None`, for ever.
    fn remembers_for(&self) -> Option<Duration> {
        None
    }

    /// Returns `false` for accounts whose usage is not exported. Default: `true`.
    fn takes(&self, account: &Account) -> bool {
        let _ = account;
        true
    }
}

/// An event that a receiver does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its number in the delivery, from 0.
    pub index: usize,
    /// The receiver's reason.
    pub reason: String,
}

/// Reason why a delivery is not known to be safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// The receiver cannot take events now. They are delivered again after a pause.
    #[error("{reason}")]
    Unavailable {
        /// The reason, for the operator.
        reason: String,
        /// The time after which the receiver wants to be asked again, if it says so.
        retry_after: Option<Duration>,
        /// Numbers of events in the delivery, from 0, that are safe all the same: they are not
        /// delivered again.
        safe: Vec<usize>,
    },
    /// The receiver takes no events until somebody changes something, such as a key. Of this
    /// delivery, none has arrived but those that are safe.
    #[error("{reason}")]
    Denied {
        /// The reason, for the operator.
        reason: String,
        /// As of [`Unavailable`](Self::Unavailable).
        safe: Vec<usize>,
    },
}

impl ReceiverError {
    /// Returns an error of a receiver that says nothing about when to ask it again.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after: None, safe: Vec::new() }
    }

    /// Returns the error, with the numbers of events that are safe.
    #[must_use]
    pub fn with_safe(mut self, events: Vec<usize>) -> Self {
        let (Self::Unavailable { safe, .. } | Self::Denied { safe, .. }) = &mut self;
        *safe = events;
        self
    }

    /// Returns an error of a receiver that took none of the events.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::Denied { reason: reason.into(), safe: Vec::new() }
    }
}

/// An answer that takes no events, and says nothing about single ones.
impl From<HttpAnswer> for ReceiverError {
    fn from(answer: HttpAnswer) -> Self {
        match answer.status.as_u16() {
            401 | 403 | 404 | 405 => Self::denied(answer.to_string()),
            _ => {
                let seconds = answer.headers.get(RETRY_AFTER);
                let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                Self::Unavailable { reason: answer.to_string(), retry_after, safe: Vec::new() }
            }
        }
    }
}
