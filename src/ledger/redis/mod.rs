//! The ledger in Redis: balances that any number of nodes share.
//!
//! `renew.lua` runs a whole renewal in one atomic step on the server, `amend.lua` a change of an
//! account. Most renewals are plain: of accounts without purchased credits, limits or credits of
//! days, parts, and rates over all nodes. `plain.lua` comes first in the same script and answers
//! those, in less than half the time. Where many wait, `several.lua` renews several leases, of any
//! accounts, in one call. The keys of an account share a slot:
//!
//! | key | content | lifetime |
//! |---|---|---|
//! | `tc:{user:alice}` | the account's [`Record`](super::Record) | none; 93 days once erased |
//! | `tc:{user:alice}:spent` | grants that are used up or expired | none |
//! | `tc:{user:alice}:2026-11` | the period's totals, usage lines and refunds | 13 months |
//! | `tc:{user:alice}:2026-11:l` | its leases, and the sums of what they settled | 62 days |
//! | `tc:{user:alice}:2026-11:h` | their holds, and the sum of those | until the last hold ends |
//! | `tc:{user:alice}:2026-11:n` | the leases that report thresholds to the host | 13 months |
//! | `tc:schema` | the version of the schema | none |
//! | `tc:check` | written to see that the server writes | 1 s |
//!
//! docs/redis-schema.md describes their fields.
//!
//! A server can lose a key, or tear a write of several: a file that ends in the middle, memory that
//! is full, an operator who deletes. So amounts are stored twice, as sums: what leases settled, in
//! the book and with the leases; what a period used of grants, in the book and in the record; what
//! was settled in one month and debited in another, in both months' books. Each renewal compares
//! them, and repairs the one that is behind. Holds are added up anew whenever one may have expired.
//!
//! * `builder.rs`: settings.
//! * `ledger.rs`: [`RedisLedger`], the implementation of [`Ledger`](super::Ledger).
//! * `list.rs`: the list of a month's accounts.
//! * `inspection.rs`: whether a server is fit for balances, and how fast it is.
//! * `renewals.rs`: the calls that renew leases, several in one where many wait.
//! * `script.rs`: the scripts; `call.rs`: their arguments and answers.
//! * `schema.rs`: keys and fields; `codec.rs`: reads them.

mod buckets;
mod builder;
mod call;
mod codec;
#[cfg(test)]
mod fuzz;
mod inspection;
mod ledger;
mod list;
mod renewals;
mod schema;
mod script;
#[cfg(test)]
mod script_cost;
#[cfg(test)]
mod tests;

pub use self::{builder::RedisLedgerBuilder, inspection::ServerReport, ledger::RedisLedger};
