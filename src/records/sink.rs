//! The interface of every sink.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::record::UsageRecord;

/// A boxed future of a delivery.
pub type SinkFuture<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send + 'a>>;

/// A place that usage records are delivered to.
///
/// One delivery is under way at a time. It may take as long as it needs: records wait in the queue.
///
/// ```
/// use std::sync::Arc;
/// use tower_credits::records::{RecordSink, SinkFuture, UsageRecord};
///
/// #[derive(Debug)]
/// struct Print;
///
/// impl RecordSink for Print {
///     fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a> {
///         Box::pin(async move {
///             for record in records {
///                 println!("{} cost {}", record.id, record.cost);
///             }
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait RecordSink: fmt::Debug + Send + Sync + 'static {
    /// Delivers records, the oldest first. `Ok` if all of them are safe.
    ///
    /// # Errors
    ///
    /// [`SinkError::Unavailable`] if some of them may not be: the same records are delivered again
    /// after a pause. [`SinkError::Refused`] if some of them never will be: they are delivered in
    /// smaller batches, and those that are refused by themselves are dropped.
    fn deliver<'a>(&'a self, records: &'a [Arc<UsageRecord>]) -> SinkFuture<'a>;

    /// Returns a name for the log and for a label of metrics, without secrets. Default: `records`.
    fn name(&self) -> String {
        "records".to_owned()
    }
}

/// Reason why records were not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The sink cannot take them now.
    #[error("{0}")]
    Unavailable(String),
    /// The sink does not take them at all.
    #[error("{0}")]
    Refused(String),
}
