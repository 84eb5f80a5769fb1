//! Meter events of Stripe Billing.

use std::{collections::BTreeMap, fmt, time::Duration};

use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    customers::Customers,
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, ReceiverFuture, Refusal},
    value::Measure,
};
use crate::{Account, clock::UnixTime, http_client::HttpClient};

/// The time for which Stripe knows an identifier again, at least.
const REMEMBERS_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The age up to which Stripe takes events.
const MAX_AGE: Duration = Duration::from_secs(35 * 24 * 60 * 60);

/// The most calls in a second that can be set.
const MAX_CALLS_PER_SECOND: u32 = 10_000;

/// Calls under way at once, each for another customer.
const MAX_CALLS: usize = 16;

/// [Receiver] that posts events to a meter of Stripe Billing, one a call.
///
/// | field | value |
/// |---|---|
/// | `event_name` | name of the meter's events |
/// | `identifier` | [id](UsageEvent::id) of the event |
/// | `timestamp` | [time](UsageEvent::time) of the event |
/// | `payload[stripe_customer_id]` | the account's [customer](Customers) |
/// | `payload[value]` | cost in nano-dollars, or another [`Measure`] |
///
/// The meter's formula is `sum`. Usage of accounts without a customer is not exported. Stripe knows
/// an identifier again for 24 hours at least, and takes events of the last 35 days: export at least
/// once a day. Calls for one customer are made one after the other. Source: the reference of
/// Stripe's meter events.
///
/// ```
/// use tower_credits::export::{Customers, StripeMeter};
///
/// # fn example(key: &str) -> Result<(), tower_credits::BoxError> {
/// let customers = Customers::from_file("customers.csv")?;
/// let stripe = StripeMeter::new("inference", key, customers)?.calls_per_second(200);
/// # Ok(())
/// # }
/// ```
pub struct StripeMeter {
    client: HttpClient,
    event_name: String,
    /// `test` or `live`, as the key says: what one has, the other has not.
    mode: &'static str,
    customers: Customers,
    measure: Measure,
    calls_per_second: u32,
    pace: Mutex<Option<Interval>>,
}

impl StripeMeter {
    /// Returns a receiver for the events of a meter, with a secret or restricted key.
    ///
    /// # Errors
    ///
    /// An error if the key has characters that cannot be sent, or if the system's certificates
    /// cannot be found.
    pub fn new(
        event_name: impl Into<String>,
        key: &str,
        customers: Customers,
    ) -> Result<Self, crate::BoxError> {
        let client =
            HttpClient::to("https://api.stripe.com/v1/billing/meter_events")?.bearer_token(key)?;
        Ok(Self {
            client,
            event_name: event_name.into(),
            mode: if key.contains("_test_") { "test" } else { "live" },
            customers,
            measure: Measure::default(),
            calls_per_second: 20,
            pace: Mutex::new(None),
        })
    }

    /// Posts to another URL, for example of a proxy.
    ///
    /// # Errors
    ///
    /// An error if the URL cannot be read.
    pub fn url(self, url: &str) -> Result<Self, crate::BoxError> {
        Ok(Self { client: self.client.at(url)?, ..self })
    }

    /// Sets the number that is sent. Default: the cost in nano-dollars.
    #[must_use]
    pub fn measure(self, measure: Measure) -> Self {
        Self { measure, ..self }
    }

    /// Sets how many calls are made in a second, at most. Default: 20, since Stripe takes 25 with
    /// keys of its test mode. With live keys it takes 1 000.
    #[must_use]
    pub fn calls_per_second(self, calls: u32) -> Self {
        Self { calls_per_second: calls.clamp(1, MAX_CALLS_PER_SECOND), ..self }
    }

    /// Posts an event. Returns the reason if it is refused.
    async fn post(&self, event: &UsageEvent) -> Result<Option<String>, ReceiverError> {
        let value = self.measure.of(event);
        // Events without the number change no sum.
        if value == 0 {
            return Ok(None);
        }
        let Some(customer) = self.customers.get(&event.account) else {
            return Ok(Some(format!("{} has no customer", event.account)));
        };
        if UnixTime::now().saturating_since(event.time) > MAX_AGE {
            return Ok(Some("Stripe takes no events that are older than 35 days".to_owned()));
        }
        let fields = [
            ("event_name", self.event_name.as_str()),
            ("identifier", &event.id),
            ("timestamp", &event.time.as_secs().to_string()),
            ("payload[stripe_customer_id]", customer),
            ("payload[value]", &value.to_string()),
        ];
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let fields = fields.map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, form)]);
        self.wait_for_turn().await;
        let answer = self.client.post(headers, fields.join("&")).await;
        let answer = answer.map_err(ReceiverError::unavailable)?;
        match answer.status.as_u16() {
            200..=299 => Ok(None),
            400 if is_repetition(&answer.body) => Ok(None),
            400 | 402 | 404 | 422 => Ok(Some(answer.to_string())),
            _ => Err(answer.into()),
        }
    }

    async fn wait_for_turn(&self) {
        let mut pace = self.pace.lock().await;
        let pace = pace.get_or_insert_with(|| {
            let mut pace = interval(Duration::from_secs(1) / self.calls_per_second);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        pace.tick().await;
    }

    /// Posts the events of one customer, one after the other, until one is not answered.
    async fn post_all(&self, events: Vec<(usize, &UsageEvent)>) -> Posted {
        let mut posted = Posted::default();
        for (index, event) in events {
            match self.post(event).await {
                Ok(None) => posted.safe.push(index),
                Ok(Some(reason)) => posted.refusals.push(Refusal { index, reason }),
                Err(error) => {
                    posted.error = Some(error);
                    break;
                }
            }
        }
        posted
    }
}

/// Outcome of posting a customer's events.
#[derive(Default)]
struct Posted {
    safe: Vec<usize>,
    refusals: Vec<Refusal>,
    error: Option<ReceiverError>,
}

/// `true` if an answer says that an event of this identifier was taken before. It has no code.
fn is_repetition(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        error: Problem,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: String,
    }
    serde_json::from_slice(body).is_ok_and(|Answer { error }: Answer| {
        error.code.as_deref() == Some("duplicate_meter_event")
            || error.message.contains("already exists with identifier")
    })
}

impl Receiver for StripeMeter {
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a> {
        Box::pin(async move {
            let mut customers: BTreeMap<Option<&str>, Vec<(usize, &UsageEvent)>> = BTreeMap::new();
            for (index, event) in events.iter().enumerate() {
                let customer = self.customers.get(&event.account);
                customers.entry(customer).or_default().push((index, event));
            }
            let mut posting = Vec::new();
            for events in customers.into_values() {
                posting.push(self.post_all(events));
            }
            let mut posting = stream::iter(posting).buffer_unordered(MAX_CALLS);
            let mut all = Posted::default();
            while let Some(posted) = posting.next().await {
                all.safe.extend(posted.safe);
                all.refusals.extend(posted.refusals);
                // Of a denial is known that nothing has arrived.
                let is_denied = matches!(all.error, None | Some(ReceiverError::Denied { .. }));
                if is_denied {
                    all.error = posted.error.or(all.error);
                }
            }
            match all.error {
                None => Ok(all.refusals),
                Some(ReceiverError::Unavailable { reason, retry_after, .. }) => {
                    Err(ReceiverError::Unavailable { reason, retry_after, safe: all.safe })
                }
                Some(ReceiverError::Denied { reason, .. }) => {
                    Err(ReceiverError::Denied { reason, safe: all.safe })
                }
            }
        })
    }

    fn name(&self) -> String {
        let Self { client, event_name, mode, measure, .. } = self;
        format!("Stripe, {}, {mode}, {event_name}, {measure}", client.host())
    }

    fn remembers_for(&self) -> Option<Duration> {
        Some(REMEMBERS_FOR)
    }

    fn takes(&self, account: &Account) -> bool {
        self.customers.get(account).is_some()
    }
}

impl fmt::Debug for StripeMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StripeMeter").field(&self.name()).finish()
    }
}
