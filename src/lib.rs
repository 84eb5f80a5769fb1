//! Tower middleware that charges compute time x hardware price against a monthly credit balance, by
//! account tier.
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README's code is tested where the features that it uses are there.
#![cfg_attr(all(feature = "axum", feature = "redis"), doc = "", doc = include_str!("../README.md"))]

mod account;
#[cfg(feature = "axum")]
pub mod billing;
mod clock;
mod contained;
mod identify;
mod lease;
mod ledger;
mod limit;
mod meter;
mod money;
mod observe;
mod period;
pub mod plan;
#[cfg(feature = "redis")]
mod redis_server;
mod rejection;
mod reload;
mod terms;
mod threshold;

pub use self::{
    account::{Account, Name, NameError},
    clock::{Clock, ManualClock, SystemClock, TokioClock},
    identify::{
        BearerTokens, Identify, IdentifyError, IdentifyWith, Identifying, Identity,
        IdentityFromExtensions, RequestHead, TokensError,
    },
    lease::{Ahead, Settlement, Unsettled},
    ledger::{
        AccountSummary, Accounts, AccountsPage, Amendment, Answer, Answering, Book, Cursor, Grant,
        LeaseId, Ledger, LedgerError, LineKey, MOST_LINES, MemoryLedger, Outcome, Record, Refund,
        Renewal, Standing, Statement, StatementLine, StatementRefund, Usage, UsageLine,
    },
    meter::{
        ComputeClock, ComputeTime, ConfigError, CreditMeter, CreditMeterBuilder, CreditService,
        CreditWorker, CutOff, End, Ending, MeterBody, ResponseFuture, Stalled,
    },
    money::{Credits, MoneyError, Price},
    period::{Period, PeriodError},
    plan::{
        Classification, DuringOutage, Feature, Midway, Plan, PlanError, PlanFile, PlanHandle,
        RequestCap, RequestQuota, Tier, WhenUsedUp, Workload,
    },
    rejection::{DenialFormat, Rejection},
    terms::Terms,
    threshold::{Threshold, ThresholdReached},
};
#[cfg(feature = "redis")]
pub use self::{
    identify::{IssuedToken, RedisTokens, RedisTokensBuilder, RedisTokensError, TokenSummary},
    ledger::{RedisLedger, RedisLedgerBuilder},
    redis_server::RedisServer,
};

/// The code in the docs is tested, too.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../docs/stacks.md")]
mod stacks {}

/// The same.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../docs/scaling.md")]
mod scaling {}

/// The same.
#[cfg(all(doctest, feature = "redis"))]
#[doc = include_str!("../docs/operating.md")]
mod operating {}

/// Any error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
