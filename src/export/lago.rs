//! Events of Lago, in batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use super::{
    customers::Customers,
    event::UsageEvent,
    receiver::{Receiver, ReceiverError, ReceiverFuture, Refusal},
};
use crate::{
    Account,
    http_client::{HttpAnswer, HttpClient},
};

/// [Receiver] that posts events to Lago, 100 in a batch.
///
/// | field | value |
/// |---|---|
/// | `transaction_id` | [id](UsageEvent::id) of the event |
/// | `external_subscription_id` | the account, or its [name](Self::subscriptions) at Lago |
/// | `code` | code of the billable metric |
/// | `timestamp` | [time](UsageEvent::time) of the event |
/// | `properties` | [`UsageEvent`] as JSON |
///
/// A metric adds up a property, such as `costNanoUsd`. Lago takes a batch as a whole or not at all;
/// events that it has already are taken out, and the rest is sent again. Source: the reference of
/// Lago's batch of events.
///
/// ```
/// use tower_credits::export::Lago;
///
/// # fn example(key: &str) -> Result<(), tower_credits::BoxError> {
/// let lago = Lago::to("https://api.getlago.com/api/v1/events/batch", key, "inference")?;
/// # Ok(())
/// # }
/// ```
pub struct Lago {
    client: HttpClient,
    code: String,
    subscriptions: Option<Customers>,
}

#[derive(Serialize)]
struct Batch<'a> {
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    transaction_id: &'a str,
    external_subscription_id: &'a str,
    code: &'a str,
    timestamp: u64,
    properties: &'a UsageEvent,
}

/// Body of an answer that refuses a batch: for each event that is wrong, by its number, its fields
/// and what is wrong with them.
#[derive(Deserialize)]
struct Invalid {
    error_details: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Lago {
    /// Returns a receiver that posts to a URL, such as
    /// `https://api.getlago.com/api/v1/events/batch`, with an API key, for the metric of a code.
    ///
    /// # Errors
    ///
    /// An error if the URL cannot be read, if the key has characters that cannot be sent, or if the
    /// system's certificates cannot be found.
    pub fn to(url: &str, key: &str, code: impl Into<String>) -> Result<Self, crate::BoxError> {
        let client = HttpClient::to(url)?.bearer_token(key)?;
        Ok(Self { client, code: code.into(), subscriptions: None })
    }

    /// Sets the names that accounts' subscriptions have at Lago. Usage of accounts without one is
    /// not exported. Default: the accounts' own names, such as `user:alice`.
    #[must_use]
    pub fn subscriptions(self, subscriptions: Customers) -> Self {
        Self { subscriptions: Some(subscriptions), ..self }
    }

    fn subscription<'a>(&'a self, account: &'a Account) -> Option<&'a str> {
        match &self.subscriptions {
            None => Some(account.as_str()),
            Some(subscriptions) => subscriptions.get(account),
        }
    }

    async fn post(&self, events: &[(usize, &UsageEvent)]) -> Result<HttpAnswer, ReceiverError> {
        let events = events.iter().map(|(_, event)| Event {
            transaction_id: &event.id,
            external_subscription_id: self.subscription(&event.account).unwrap_or_default(),
            code: &self.code,
            timestamp: event.time.as_secs(),
            properties: event,
        });
        let batch = serde_json::to_vec(&Batch { events: events.collect() })
            .map_err(|error| ReceiverError::Denied(error.to_string()))?;
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        self.client.post(headers, batch).await.map_err(ReceiverError::unavailable)
    }
}

impl Receiver for Lago {
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a> {
        Box::pin(async move {
            let mut refusals = Vec::new();
            let mut left: Vec<(usize, &UsageEvent)> = events.iter().enumerate().collect();
            left.retain(|(index, event)| {
                let known = self.subscription(&event.account).is_some();
                if !known {
                    let reason = format!("{} has no subscription", event.account);
                    refusals.push(Refusal { index: *index, reason });
                }
                known
            });
            // Each time at least one is taken out.
            while !left.is_empty() {
                let answer = self.post(&left).await?;
                if answer.status.is_success() {
                    break;
                }
                let invalid = match answer.status.as_u16() {
                    422 => serde_json::from_slice::<Invalid>(&answer.body).ok(),
                    _ => return Err(answer.into()),
                };
                let mut wrong = BTreeSet::new();
                for (number, fields) in invalid.into_iter().flat_map(|said| said.error_details) {
                    let Some(number) = number.parse().ok().filter(|n: &usize| *n < left.len())
                    else {
                        continue;
                    };
                    wrong.insert(number);
                    let only_known = fields.iter().all(|(field, problems)| {
                        field == "transaction_id"
                            && problems.iter().all(|problem| problem == "value_already_exist")
                    });
                    if !only_known {
                        let reason = format!("it answered {}: {fields:?}", answer.status);
                        refusals.push(Refusal { index: left[number].0, reason });
                    }
                }
                if wrong.is_empty() {
                    return Err(ReceiverError::Denied(answer.to_string()));
                }
                let mut number = 0;
                left.retain(|_| {
                    number += 1;
                    !wrong.contains(&(number - 1))
                });
            }
            Ok(refusals)
        })
    }

    fn name(&self) -> String {
        format!("Lago, {}, {}", self.client.host(), self.code)
    }

    fn takes(&self, account: &Account) -> bool {
        self.subscription(account).is_some()
    }
}

impl fmt::Debug for Lago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lago").field(&self.name()).finish()
    }
}
