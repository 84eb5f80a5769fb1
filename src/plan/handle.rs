//! The plan in force, which can be replaced.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;

use super::policy::Plan;

/// Handle to the plan in force. Clones share the plan. A request keeps the plan under which it was
/// admitted.
///
/// ```
/// use tower_credits::{Plan, plan::PlanHandle};
///
/// # use tower_credits::plan::{Tier, WhenUsedUp};
/// # fn plan(included: &str) -> Result<Plan, Box<dyn std::error::Error>> {
/// #     let tier = Tier::new("free".parse()?, included.parse()?, WhenUsedUp::Block);
/// #     Ok(Plan::builder().tier(tier).build()?)
/// # }
/// let handle = PlanHandle::from(plan("0.10")?);
/// handle.replace(plan("0.20")?);
/// assert_eq!(handle.current().tier(&"free".parse()?).unwrap().included, "0.20".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PlanHandle(Arc<InForce>);

#[derive(Debug)]
struct InForce {
    plan: ArcSwap<Plan>,
    /// Reason why the plan's file, as it is now, is not in force.
    refused: Mutex<Option<String>>,
}

impl PlanHandle {
    /// Returns the plan in force now.
    pub fn current(&self) -> Arc<Plan> {
        self.0.plan.load_full()
    }

    /// Puts another plan in force, for requests that come from now on.
    pub fn replace(&self, plan: Plan) {
        self.0.plan.store(Arc::new(plan));
        self.set_refused(None);
    }

    /// Returns the plan in force now, without counting a reference. Meant for short use.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Plan>> {
        self.0.plan.load()
    }

    /// Returns why the plan's file, as it is now, is not in force; `None` if it is.
    pub(crate) fn refused(&self) -> Option<String> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_refused(&self, reason: Option<String>) {
        *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    pub(super) fn downgrade(&self) -> WeakPlanHandle {
        WeakPlanHandle(Arc::downgrade(&self.0))
    }
}

impl From<Plan> for PlanHandle {
    fn from(plan: Plan) -> Self {
        let plan = ArcSwap::from_pointee(plan);
        Self(Arc::new(InForce { plan, refused: Mutex::default() }))
    }
}

/// Weak handle to the plan in force.
pub(super) struct WeakPlanHandle(Weak<InForce>);

impl WeakPlanHandle {
    pub(super) fn upgrade(&self) -> Option<PlanHandle> {
        self.0.upgrade().map(PlanHandle)
    }
}
