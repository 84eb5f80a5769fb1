//! The account's standing in the ledger's last answer, in little memory.

use crate::{
    Credits,
    clock::UnixTime,
    ledger::{LimitStanding, Standing},
};

/// A [`Standing`], with what few accounts have of it in a box.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct LastStanding {
    used: Credits,
    held: Credits,
    limit: Credits,
    included: Credits,
    at: UnixTime,
    limited_by_owner: bool,
    early: bool,
    ended: bool,
    tightest: Option<Box<LimitStanding>>,
}

impl From<Standing> for LastStanding {
    fn from(standing: Standing) -> Self {
        let Standing { used, held, limit, included, limited_by_owner, early, ended, at, tightest } =
            standing;
        let tightest = tightest.map(Box::new);
        Self { used, held, limit, included, at, limited_by_owner, early, ended, tightest }
    }
}

impl LastStanding {
    /// Returns the standing.
    pub(super) fn get(&self) -> Standing {
        let Self { used, held, limit, included, at, limited_by_owner, early, ended, tightest } =
            self;
        Standing {
            used: *used,
            held: *held,
            limit: *limit,
            included: *included,
            limited_by_owner: *limited_by_owner,
            early: *early,
            ended: *ended,
            at: *at,
            tightest: tightest.as_deref().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Span;

    fn nanos(nanos: i64) -> Credits {
        Credits::from_nano_usd(nanos).unwrap()
    }

    #[test]
    fn a_standing_stays_as_it_is() {
        let tightest = LimitStanding {
            level: 2,
            span: Span::Day,
            limit: nanos(9),
            used: nanos(8),
            held: nanos(7),
            resets_at: UnixTime::from_secs(6),
        };
        for (bit, tightest) in [None, Some(tightest)].into_iter().cycle().take(6).enumerate() {
            let standing = Standing {
                used: nanos(1),
                held: nanos(2),
                limit: nanos(3),
                included: nanos(4),
                limited_by_owner: bit % 3 == 0,
                early: bit % 3 == 1,
                ended: bit % 3 == 2,
                at: UnixTime::from_secs(5),
                tightest,
            };
            assert_eq!(LastStanding::from(standing).get(), standing);
        }
    }
}
