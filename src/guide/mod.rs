//! The guide: how to use the meter, run it in production, and read its code.
//!
//! **Use it**
//!
//! * [Plan](plan): prices, models, routes, tiers.
//! * [Authentication](authentication): who calls, who pays; tokens, cookies, organisations.
//! * [Billing](billing): what a request costs, and the billing page.
//! * [Denials](denials): what a denied caller is told, and what happens when credits run out.
//! * [Clients](clients): what well-known clients print of a denial.
//! * [Gateway](gateway): credits in front of vLLM, llama.cpp and any other server.
//! * [Settings](settings): the methods of the builder, and the keys of a tier that need a choice.
//! * [Recipes](recipes): thirty questions, and for each the plan, the code, or "no".
//! * [Stacks](stacks): axum, tonic, hyper, other layers, gateways.
//! * [Testing](testing): tests without Redis.
//!
//! **Run it**
//!
//! * [Accounts](accounts): purchases, refunds, limits, thresholds, bill runs, closing a month.
//! * [Records](records): the id of a request, usage records, costs by id.
//! * [Command](command): `credits` in a shell, an operator's day, exports of usage.
//! * [Production](production): Redis, several nodes, what to watch, failures, proxies.
//! * [Monitoring](monitoring): a dashboard, alerts, and a runbook.
//! * [Scaling](scaling): what many nodes need from Redis.
//!
//! **Understand it**
//!
//! * [Guarantees](guarantees): what holds, and its bounds.
//! * [Architecture](architecture): where each rule is written, and which test holds it.
//! * [Lease protocol](lease_protocol): how accounts stay exact.
//! * [Redis schema](redis_schema): every key and field.
//! * [Glossary](glossary): the words.

// The pages are the files of the folder `docs`. There, links lead from file to file. Here,
// `links.md` stands before each page, and Markdown takes the first definition of a link. Tests of
// the code do without it, so that their names have the lines of the pages.

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/plan.md")]
pub mod plan {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../../docs/authentication.md"))]
pub mod authentication {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../../docs/billing.md"))]
pub mod billing {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/denials.md")]
pub mod denials {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/clients.md")]
pub mod clients {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/gateway.md")]
pub mod gateway {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/settings.md")]
pub mod settings {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/records.md")]
pub mod records {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/command.md")]
pub mod command {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "metrics"), doc = include_str!("../../docs/monitoring.md"))]
pub mod monitoring {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/recipes.md")]
pub mod recipes {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../../docs/stacks.md"))]
pub mod stacks {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/testing.md")]
pub mod testing {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "redis"), doc = include_str!("../../docs/accounts.md"))]
pub mod accounts {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../../docs/production.md"))]
pub mod production {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[cfg_attr(any(not(doctest), feature = "redis"), doc = include_str!("../../docs/scaling.md"))]
pub mod scaling {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/guarantees.md")]
pub mod guarantees {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/architecture.md")]
pub mod architecture {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/lease-protocol.md")]
pub mod lease_protocol {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/redis-schema.md")]
pub mod redis_schema {}

#[cfg_attr(not(doctest), doc = include_str!("links.md"))]
#[doc = include_str!("../../docs/glossary.md")]
pub mod glossary {}
