//! Tiers: what an account may use, and what happens when it has used it.

use std::{num::NonZeroU32, time::Duration};

use super::TierName;
use crate::{Credits, Limits, Part, ledger::Terms, tariff::PriceFactor};

/// The hold of a tier that does not set one.
const DEFAULT_HOLD: Duration = Duration::from_secs(1);

/// Terms of an account: its credits, its limits, and the policy at each of them.
///
/// In the plan's file a tier is a table, `[tiers.<name>]`, whose keys are the fields below. In
/// code, [`Tier::new`] sets what the file requires, and a method for each other field replaces its
/// default:
///
/// ```
/// use std::time::Duration;
/// use tower_credits::plan::{RequestQuota, Tier, WhenUsedUp};
///
/// let free = Tier::new("free".parse()?, "0.10".parse()?, WhenUsedUp::Block)
///     .requests(RequestQuota::new(600_u32.try_into()?, Duration::from_secs(60)))
///     .hint("Upgrade to PRO.");
///
/// let pro = Tier::new("pro".parse()?, "2.00".parse()?, WhenUsedUp::PayAsYouGo("100".parse()?))
///     .most_running(8_u32.try_into()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tier {
    /// The tier's name in the plan, and in [`Identity::tier`](crate::Identity::tier).
    pub name: TierName,
    /// Credits included each month.
    pub included: Credits,
    /// Credits included each day (UTC), in addition. They are used first, and those that are left
    /// at midnight lapse. Default: none.
    pub included_per_day: Credits,
    /// `true` if `included` and `included_per_day` count once for each of the account's seats.
    /// Default: `false`.
    pub per_seat: bool,
    /// Factor by which fees, least charges and prices of time are multiplied: `0.8` is a discount
    /// of 20 %. Default: 1.
    pub price_factor: PriceFactor,
    /// Policy for when the included and purchased credits are used up.
    pub when_used_up: WhenUsedUp,
    /// Policy for running requests when no credits are left. Default: [`Midway::Stop`] with
    /// [`WhenUsedUp::Block`], [`Midway::Finish`] with [`WhenUsedUp::PayAsYouGo`].
    pub midway: Midway,
    /// The compute time that a request puts on hold at its admission; while it runs, its hold is
    /// refilled to this. Default: 1 s. A request's hold is never shorter than four times the
    /// meter's [ledger timeout](crate::CreditMeterBuilder::ledger_timeout), nor longer than
    /// `most_per_request`.
    pub hold: Duration,
    /// Request rate of an account, over all nodes or on each. Requests beyond it are denied with
    /// 429. Default: `None`, no limit.
    pub requests: Option<RequestQuota>,
    /// The most that one request may use. A request that reaches it is cut off (403). Default:
    /// `None`, no limit, even if the request runs on as debt.
    pub most_per_request: Option<RequestCap>,
    /// The most requests of an account that run, or wait for the ledger, at the same time. Requests
    /// beyond it are denied with 429. Default: `None`, no limit.
    pub most_running: Option<NonZeroU32>,
    /// The nodes over which `most_running` holds. Default: [`LimitScope::Account`], all.
    pub most_running_scope: LimitScope,
    /// The most that an account may use on a day (UTC), included, purchased and pay-as-you-go
    /// credits together. Requests beyond it are denied with 403. Default: `None`, no limit.
    pub most_per_day: Option<Credits>,
    /// The limits of an account's [parts](crate::Part) that nobody set, by their depth: first those
    /// of groups, then those of a group's members, then those of a member's keys. Default: none.
    pub part_limits: Vec<Limits>,
    /// The models of which an account may use less than it has credits for, or none. Default:
    /// empty.
    pub models: Vec<TierModels>,
    /// Policy for while the ledger does not answer. Default: [`DuringOutage::Deny`].
    pub during_outage: DuringOutage,
    /// Text for denied callers, such as an upgrade link. Default: `None`.
    pub hint: Option<String>,
}

impl Tier {
    /// Returns a tier with this name that includes these credits each month. All else has the
    /// default that its field states.
    pub fn new(name: TierName, included: Credits, when_used_up: WhenUsedUp) -> Self {
        Self {
            name,
            included,
            included_per_day: Credits::ZERO,
            per_seat: false,
            price_factor: PriceFactor::ONE,
            when_used_up,
            midway: match when_used_up {
                WhenUsedUp::Block => Midway::Stop,
                WhenUsedUp::PayAsYouGo(_) => Midway::Finish,
            },
            hold: DEFAULT_HOLD,
            requests: None,
            most_per_request: None,
            most_running: None,
            most_running_scope: LimitScope::Account,
            most_per_day: None,
            part_limits: Vec::new(),
            models: Vec::new(),
            during_outage: DuringOutage::Deny,
            hint: None,
        }
    }

    /// Includes credits each day; see [`included_per_day`](Self#structfield.included_per_day).
    #[must_use]
    pub const fn included_per_day(mut self, credits: Credits) -> Self {
        self.included_per_day = credits;
        self
    }

    /// Counts the included credits once for each of the account's seats; see
    /// [`per_seat`](Self#structfield.per_seat).
    #[must_use]
    pub const fn per_seat(mut self, on: bool) -> Self {
        self.per_seat = on;
        self
    }

    /// Multiplies prices; see [`price_factor`](Self#structfield.price_factor).
    #[must_use]
    pub const fn price_factor(mut self, factor: PriceFactor) -> Self {
        self.price_factor = factor;
        self
    }

    /// Sets what happens to a running request when no credits are left; see
    /// [`midway`](Self#structfield.midway).
    #[must_use]
    pub const fn midway(mut self, midway: Midway) -> Self {
        self.midway = midway;
        self
    }

    /// Sets the compute time that a request puts on hold, 1 ms to 24 h; see
    /// [`hold`](Self#structfield.hold).
    #[must_use]
    pub const fn hold(mut self, compute: Duration) -> Self {
        self.hold = compute;
        self
    }

    /// Limits the request rate; see [`requests`](Self#structfield.requests).
    #[must_use]
    pub const fn requests(mut self, quota: RequestQuota) -> Self {
        self.requests = Some(quota);
        self
    }

    /// Limits what one request may use; see
    /// [`most_per_request`](Self#structfield.most_per_request).
    #[must_use]
    pub const fn most_per_request(mut self, cap: RequestCap) -> Self {
        self.most_per_request = Some(cap);
        self
    }

    /// Limits concurrent requests; see [`most_running`](Self#structfield.most_running).
    #[must_use]
    pub const fn most_running(mut self, requests: NonZeroU32) -> Self {
        self.most_running = Some(requests);
        self
    }

    /// Sets the nodes over which the limit of concurrent requests holds; see
    /// [`most_running_scope`](Self#structfield.most_running_scope).
    #[must_use]
    pub const fn most_running_scope(mut self, scope: LimitScope) -> Self {
        self.most_running_scope = scope;
        self
    }

    /// Limits what an account may use on a day; see
    /// [`most_per_day`](Self#structfield.most_per_day).
    #[must_use]
    pub const fn most_per_day(mut self, credits: Credits) -> Self {
        self.most_per_day = Some(credits);
        self
    }

    /// Sets the limits of parts, at most three of them; see
    /// [`part_limits`](Self#structfield.part_limits).
    #[must_use]
    pub fn part_limits(mut self, by_depth: impl Into<Vec<Limits>>) -> Self {
        self.part_limits = by_depth.into();
        self
    }

    /// Adds limits for some models; see [`models`](Self#structfield.models).
    #[must_use]
    pub fn models(mut self, models: TierModels) -> Self {
        self.models.push(models);
        self
    }

    /// Sets what happens while the ledger does not answer; see
    /// [`during_outage`](Self#structfield.during_outage).
    #[must_use]
    pub const fn during_outage(mut self, policy: DuringOutage) -> Self {
        self.during_outage = policy;
        self
    }

    /// Adds a text for denied callers; see [`hint`](Self#structfield.hint).
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// Returns the rule for a model: of those whose patterns match, the one with the longest.
    pub(crate) fn rule_for(&self, model: &str) -> Option<&TierModels> {
        let matching = self.models.iter().filter(|models| models.matches(model));
        matching.max_by_key(|models| (models.prefix().is_none(), models.pattern.len()))
    }

    /// Returns the parts of an account that the rules for models with limits make.
    pub(crate) fn parts_of_models(&self) -> impl Iterator<Item = Part> {
        let limited = self.models.iter().filter(|rule| !rule.limits.is_none());
        limited.map(|rule| Part::of_models(&rule.pattern))
    }

    /// Returns what the tier allows an account.
    pub fn terms(&self) -> Terms {
        let pay_as_you_go = match self.when_used_up {
            WhenUsedUp::Block => Credits::ZERO,
            WhenUsedUp::PayAsYouGo(limit) => limit,
        };
        Terms {
            included: self.included,
            included_per_day: self.included_per_day,
            per_seat: self.per_seat,
            pay_as_you_go,
        }
    }
}

/// Policy for when the included and purchased credits are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUsedUp {
    /// Requests are denied.
    Block,
    /// Requests go on and are charged on top, up to this much each month. [`Credits::MAX`] means no
    /// limit.
    PayAsYouGo(Credits),
}

/// Policy for running requests when no credits are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Midway {
    /// The request is cut off. It costs no more than was on hold for it.
    Stop,
    /// The request runs on. What it uses beyond its hold is debited even if that exceeds the
    /// account's limit. Only [`Tier::most_per_request`](Tier#structfield.most_per_request) bounds
    /// it.
    Finish,
}

/// The most that one request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestCap {
    /// This much compute time, 1 ms to 24 h.
    Compute(Duration),
    /// This much money, more than 0.
    Cost(Credits),
}

/// Request rate, as a token bucket: `burst` requests at once, refilled with `count` in each `per`.
///
/// ```
/// use std::time::Duration;
/// use tower_credits::plan::RequestQuota;
///
/// // 600 a minute, at most 100 at once.
/// let quota = RequestQuota::new(600_u32.try_into()?, Duration::from_secs(60))
///     .burst(100_u32.try_into()?);
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestQuota {
    /// Requests in each `per`, at most one in a microsecond.
    pub count: NonZeroU32,
    /// The time in which `count` requests are refilled, 1 ms to 24 h. A used-up `burst` must be
    /// full again within 31 days.
    pub per: Duration,
    /// Requests that may come at once. Default: `count`. A plan with a fixed
    /// window and another burst is refused.
    pub burst: NonZeroU32,
    /// The nodes over which it holds. Default: [`LimitScope::Account`], all.
    pub scope: LimitScope,
    /// The way in which requests become possible again. Default: [`RateWindow::Sliding`].
    pub window: RateWindow,
}

/// The nodes over which a request rate, or a limit of concurrent requests, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitScope {
    /// All nodes together, by the renewals of the account's leases. While the ledger does not
    /// answer, each node counts for itself.
    ///
    /// * Of a request rate they bring permits: in any time `t` at most
    ///   `burst + count x (t + 200 ms) / per` requests begin.
    /// * Of concurrent requests they bring each lease its share. If a node does not reach the
    ///   ledger for 30 s, others get its share, although its requests may still run.
    Account,
    /// Each node by itself, without the ledger.
    Node,
}

/// The way in which requests become possible again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateWindow {
    /// Steadily, as a token bucket.
    Sliding,
    /// All `count` at the end of each `per`, which begin at multiples of it since 1970, UTC. Only
    /// over all nodes.
    Fixed,
}

impl RequestQuota {
    /// Returns a quota of `count` requests in each `per`, all of which may come at once.
    pub const fn new(count: NonZeroU32, per: Duration) -> Self {
        Self { count, per, burst: count, scope: LimitScope::Account, window: RateWindow::Sliding }
    }

    /// Sets how many requests may come at once.
    #[must_use]
    pub const fn burst(mut self, requests: NonZeroU32) -> Self {
        self.burst = requests;
        self
    }

    /// Sets the nodes over which it holds.
    #[must_use]
    pub const fn scope(mut self, scope: LimitScope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets the way in which requests become possible again.
    #[must_use]
    pub const fn window(mut self, window: RateWindow) -> Self {
        self.window = window;
        self
    }
}

/// Models of which the accounts of a tier may use less than they have credits for, or none.
///
/// ```
/// use tower_credits::{Limits, plan::{Tier, TierModels, WhenUsedUp}};
///
/// let flux = Limits { per_day: Some("0.02".parse()?), per_month: None };
/// let free = Tier::new("free".parse()?, "0.10".parse()?, WhenUsedUp::Block)
///     .models(TierModels::new("flux*", flux))
///     .models(TierModels::new("sora", Limits::NONE).deny());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierModels {
    /// A model's name, or the beginning of some and `*`. Of several that match a model, an exact
    /// name counts before others, and a longer beginning before a shorter one.
    pub pattern: String,
    /// The most that an account may use of all these models together. Requests beyond it are
    /// denied with 403.
    pub limits: Limits,
    /// `true` if requests for these models are denied, with 403.
    pub deny: bool,
}

impl TierModels {
    /// Returns the rule that limits what is used of the models of this pattern.
    pub fn new(pattern: impl Into<String>, limits: Limits) -> Self {
        Self { pattern: pattern.into(), limits, deny: false }
    }

    /// Denies requests for these models.
    #[must_use]
    pub fn deny(self) -> Self {
        Self { deny: true, ..self }
    }

    /// The beginning of the models' names; `None` if it is the name of one.
    fn prefix(&self) -> Option<&str> {
        self.pattern.strip_suffix('*')
    }

    /// `true` if a model is one of these.
    pub(crate) fn matches(&self, model: &str) -> bool {
        self.prefix().map_or(self.pattern == model, |prefix| model.starts_with(prefix))
    }
}

/// Policy for while the ledger does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DuringOutage {
    /// Requests that need the ledger are denied.
    Deny,
    /// Requests go on as long as their holds stay within this much per account, node and month.
    /// They are debited when the ledger answers again.
    Allow(Credits),
}
