//! The keys, fields and words of schema version 5, each named once. docs/redis-schema.md describes
//! them for operators. The scripts get them from here, too.

use std::time::Duration;

use super::buckets::Bucket;
use crate::{Account, Period};

/// The time that a book is stored after its month ended: 13 months.
pub(super) const BOOK_LIFETIME: Duration = Duration::from_secs(396 * 24 * 60 * 60);

/// The months of which an account may have keys: those whose books are stored, the next one, and a
/// month more for a clock that is set.
pub(super) const STORED_MONTHS: usize = 17;

/// Fields of a record.
pub(super) const SEATS: &str = "seats";
pub(super) const LIMIT: &str = "limit";
pub(super) const CLOSED: &str = "closed";
pub(super) const ERASED: &str = "erased";

/// The beginnings of further fields of a record: a grant's id or a month comes after them.
pub(super) const GRANT: &str = "grant:";
pub(super) const RESERVED: &str = "pledge:";
pub(super) const PURCHASED_USED: &str = "drawn:";

/// Fields of a record about the account's days: their limit, and what was used on the last one.
pub(super) const PER_DAY: &str = "per-day";
pub(super) const TODAY: &str = "today";

/// The beginning of a record's field of a request rate; the rate comes after it.
pub(super) const RATE: &str = "rate:";

/// The beginnings of a record's fields of the credits that are included each day, by month, and of
/// a lease's share of the requests that may run at the same time.
pub(super) const DAY_CREDITS: &str = "days:";
pub(super) const SHARE: &str = "running:";

/// The beginnings of the fields of an account's parts: the part comes after them. Their limits, and
/// what each used on its last day.
pub(super) const PART_LIMITS: &str = "limits:";
pub(super) const PART_TODAY: &str = "today:";

/// The field of an account's parts that has the last day on which counts of older days were
/// removed.
pub(super) const PARTS_DAY: &str = "day";

/// A limit that nobody set.
pub(super) const NOT_SET: &str = "-";

/// The beginnings of the fields of a month's parts: the part, or the lease, comes after them. What
/// a part used and holds, and what a lease holds in which parts.
pub(super) const PART_TOTAL: &str = "total:";
pub(super) const PART_HOLD: &str = "hold:";

/// The field of a month's parts before which no hold expires.
pub(super) const NEXT_EXPIRY: &str = "next";

/// The expiry of a grant that does not expire.
pub(super) const NEVER: &str = "never";

/// The field of a book that has its totals. No line has this name: the names of lines have
/// separators, or are those of [`LATE_LINE`] and [`OTHER_LINE`].
pub(super) const TOTAL: &str = "total";

/// The field of a book that has its terms.
pub(super) const TERMS: &str = "terms";

/// Pay-as-you-go without a limit.
pub(super) const UNLIMITED: &str = "*";

/// The fields of a book that note what was settled in one month and debited in another.
pub(super) const MOVED_TO: &str = "to";
pub(super) const MOVED_FROM: &str = "from";

/// The beginning of a refund's field; its id comes after it. No line begins so: their names begin
/// with a number, or are words.
pub(super) const REFUND: &str = "refund:";

/// Lines without details.
pub(super) const LATE_LINE: &str = "late";
pub(super) const OTHER_LINE: &str = "other";

/// Separates the parts of a line's name. No part has a control character.
pub(super) const SEPARATOR: char = '\t';

/// The field that has the sums of all leases, or of all holds.
pub(super) const SUM: &str = "sum";

/// The beginning of a claim's field; the threshold comes after it.
pub(super) const CLAIM: &str = "claim:";

/// The first word of a script's answer.
pub(super) const RENEWED: &str = "renewed";
pub(super) const SUPERSEDED: &str = "superseded";
pub(super) const FORGOTTEN: &str = "forgotten";
pub(super) const LATE_RENEWAL: &str = "late";
pub(super) const NOT_BEGUN: &str = "not-begun";
pub(super) const PERIOD_CLOSED: &str = "closed";
pub(super) const ACCOUNT_ERASED: &str = "erased";

/// The words before the months of parts, the lease's share of the requests that may run, and the
/// permits of an answer.
pub(super) const PARTS: &str = " parts ";
pub(super) const RUNNING: &str = " running ";
pub(super) const PERMITS: &str = " permits ";

/// The first word of a script's error.
pub(super) const MALFORMED: &str = "MALFORMED";
pub(super) const REFUSED: &str = "REFUSED";

/// The keys of an account and a period. All share the account's slot of a cluster.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) period: Period,
    pub(super) record: String,
    pub(super) spent: String,
    pub(super) book: String,
    pub(super) leases: String,
    pub(super) holds: String,
    pub(super) claims: String,
    /// The account's parts, for all months.
    pub(super) parts: String,
    /// The account's parts in the month.
    pub(super) month_parts: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, account: &Account, period: Period) -> Self {
        let record = record_key(prefix, account);
        let book = book_key(&record, period);
        Self {
            period,
            spent: format!("{record}:spent"),
            parts: format!("{record}:parts"),
            month_parts: format!("{book}:p"),
            leases: format!("{book}{LEASES_SUFFIX}"),
            holds: format!("{book}:h"),
            claims: format!("{book}:n"),
            book,
            record,
        }
    }

    /// A bucket of the costs of an account's requests.
    pub(super) fn costs_of(record: &str, bucket: Bucket) -> String {
        format!("{record}:costs:{bucket}")
    }

    /// The book of another period of the account.
    pub(super) fn book_of(&self, period: Period) -> String {
        book_key(&self.record, period)
    }
}

const LEASES_SUFFIX: &str = ":l";

pub(super) fn record_key(prefix: &str, account: &Account) -> String {
    format!("{prefix}:{{{account}}}")
}

fn book_key(record: &str, period: Period) -> String {
    format!("{record}:{period}")
}

/// The pattern of the keys of all accounts in a period. Nothing else that a ledger stores matches.
pub(super) fn books_pattern(prefix: &str, period: Period) -> String {
    let escaped = prefix.chars().flat_map(|c| {
        matches!(c, '*' | '?' | '[' | ']' | '\\' | '^').then_some('\\').into_iter().chain([c])
    });
    format!("{}:{{*}}:{period}*", escaped.collect::<String>())
}

/// The account of a book, or of leases whose book may have been lost, by the key; and `true` if it
/// is the book.
pub(super) fn account_of(key: &str, prefix: &str, period: Period) -> Option<(Account, bool)> {
    let rest = key.strip_prefix(prefix)?.strip_prefix(":{")?;
    let leases = rest.strip_suffix(LEASES_SUFFIX);
    let account = leases.unwrap_or(rest).strip_suffix(&format!("}}:{period}"))?;
    Some((account.parse().ok()?, leases.is_none()))
}
