//! Events of Lago, in batches.

use std::{collections::BTreeMap, fmt};

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
            .map_err(|error| ReceiverError::denied(error.to_string()))?;
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        self.client.post(headers, batch).await.map_err(ReceiverError::unavailable)
    }
}

/// Returns the numbers of events that an answer names, with the reason why they are refused; `None`
/// for those that Lago has already.
fn wrong_ones(answer: &HttpAnswer, events: usize) -> BTreeMap<usize, Option<String>> {
    let said = serde_json::from_slice::<Invalid>(&answer.body).ok();
    let named = said.into_iter().flat_map(|said| said.error_details);
    let wrong = named.filter_map(|(number, fields)| {
        let number = number.parse().ok().filter(|number| *number < events)?;
        let is_known = !fields.is_empty()
            && fields.iter().all(|(field, problems)| {
                field == "transaction_id" && problems == &["value_already_exist"]
            });
        let reason = (!is_known).then(|| format!("it answered {}: {fields:?}", answer.status));
        Some((number, reason))
    });
    wrong.collect()
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
            // Each time at least one is taken out, or all are posted one by one.
            let mut batches: Vec<_> = [left].into_iter().filter(|left| !left.is_empty()).collect();
            let mut safe = Vec::new();
            while let Some(mut left) = batches.pop() {
                let answer = match self.post(&left).await {
                    Ok(answer) => answer,
                    Err(error) => return Err(error.with_safe(safe)),
                };
                if answer.status.is_success() {
                    safe.extend(left.iter().map(|(index, _)| *index));
                    continue;
                }
                if !matches!(answer.status.as_u16(), 400 | 413 | 422) {
                    return Err(ReceiverError::from(answer).with_safe(safe));
                }
                let wrong = wrong_ones(&answer, left.len());
                if !wrong.is_empty() {
                    refusals.extend(wrong.iter().filter_map(|(number, problem)| {
                        let reason = problem.clone()?;
                        Some(Refusal { index: left[*number].0, reason })
                    }));
                    let known = wrong.iter().filter(|(_, problem)| problem.is_none());
                    safe.extend(known.map(|(number, _)| left[*number].0));
                    let mut number = 0;
                    left.retain(|_| {
                        number += 1;
                        !wrong.contains_key(&(number - 1))
                    });
                    if !left.is_empty() {
                        batches.push(left);
                    }
                } else if let [(index, _)] = left[..] {
                    refusals.push(Refusal { index, reason: answer.to_string() });
                } else {
                    // It does not say which.
                    batches.extend(left.into_iter().map(|event| vec![event]));
                }
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
