//! The command line.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use tower_credits::{
    Account, Credits, Name, Part, Period, RequestId,
    clock::UnixTime,
    export::Measure,
    identify::Subject,
    ledger::{GrantId, Reason, RefundId},
    plan::TierName,
};

/// The end of the help.
const AFTER_HELP: &str = "\
CREDITS_LOG=warn shows what the library warns of.

Exit codes: 0 done; 1 could not be done; 2 wrong command line; 3 done, and something was found that
needs a person; 4 not confirmed.

Amounts are dollars, such as 12.50; months are written 2026-11; accounts are written user:alice or
org:acme.";

/// The accounts, tokens and plans of tower-credits.
#[derive(Debug, Parser)]
#[command(
    name = "credits",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Ledger: a URL (redis://, rediss://, redis+cluster://, redis+sentinel://), or the file of an
    /// embedded ledger whose service is stopped.
    #[arg(
        long,
        global = true,
        env = "CREDITS_LEDGER",
        hide_env_values = true,
        value_hint = ValueHint::FilePath
    )]
    pub(crate) ledger: Option<String>,
    /// Prefix of every key in Redis.
    #[arg(long, global = true, env = "CREDITS_PREFIX", default_value = "tc")]
    pub(crate) prefix: String,
    /// User of the Redis server, if the URL has none.
    #[arg(long, global = true, env = "CREDITS_USERNAME")]
    pub(crate) username: Option<String>,
    /// File with the password of the Redis server, if the URL has none.
    #[arg(long, global = true, env = "CREDITS_PASSWORD_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
    /// The time that one call of the ledger may take.
    #[arg(long, global = true, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Writes JSON for programs, not tables for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Answers every question with yes.
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows an account's month: what was used, what is left, who pays, lines, parts and refunds.
    Show(Show),
    /// Lists the accounts that used something in a month.
    List(List),
    /// Shows what requests of an account cost, by their ids.
    Costs(Costs),
    /// Adds purchased credits to an account.
    Grant(Grant),
    /// Refunds part of what a month cost.
    Refund(Refund),
    /// Sets or removes limits on what an account, or a part of it, may spend.
    Limit(Limit),
    /// Sets how many seats an account has.
    Seats(Seats),
    /// Closes a month that has ended: of an account, or of all.
    Close(Close),
    /// Checks whether what is stored adds up: of an account, or of all.
    Audit(Audit),
    /// Erases an account for good.
    Erase(Erase),
    /// Issues, lists, changes and revokes bearer tokens in Redis.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Reads plan files.
    #[command(subcommand)]
    Plan(Plan),
    /// Sends what accounts used, as totals, to a file or a system that makes invoices.
    Export(Export),
    /// Follows accounts by what they spend, and denials of nodes, until Ctrl-C.
    Watch(Watch),
    /// Checks the ledger's servers: version, settings, clock, latency and schema.
    Doctor,
    /// Writes completions for a shell to the standard output.
    Completions {
        /// Shell to complete for.
        shell: Shell,
    },
    /// Writes the manual pages into a folder, or this command's page to the standard output.
    Man {
        /// Folder for one page of each command.
        #[arg(long, value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Account.
    pub(crate) account: Account,
    /// Month (UTC), such as 2026-11. Default: this one.
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<Period>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Month (UTC), such as 2026-11. Default: this one.
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<Period>,
    /// Order of the list.
    #[arg(long, value_enum, default_value = "used")]
    pub(crate) sort: Sort,
    /// Sorts the other way round.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Lists accounts whose name has this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Lists accounts that used at least this.
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) min_used: Option<Credits>,
    /// Rows of a page.
    #[arg(long, default_value = "50")]
    pub(crate) page_size: NonZeroU32,
    /// Page, from 1.
    #[arg(long, default_value = "1")]
    pub(crate) page: NonZeroU32,
}

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// The most used first.
    Used,
    /// The most held first.
    Held,
    /// The most refunded first.
    Refunded,
    /// By name.
    Account,
}

#[derive(Debug, Args)]
pub(crate) struct Costs {
    /// Account.
    pub(crate) account: Account,
    /// Ids of requests: the `Inference-Id` or `x-request-id` of their responses.
    #[arg(required = true, value_name = "REQUEST_ID")]
    pub(crate) ids: Vec<RequestId>,
}

#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Account.
    pub(crate) account: Account,
    /// Amount in dollars, such as 12.50.
    pub(crate) amount: Credits,
    /// Id of the grant, such as an order's. A second grant with the same id changes nothing.
    /// Default: a new one, which is shown.
    #[arg(long)]
    pub(crate) id: Option<GrantId>,
    /// Day (UTC), or time, at which they expire. Default: never.
    #[arg(long)]
    pub(crate) expires: Option<UnixTime>,
}

#[derive(Debug, Args)]
pub(crate) struct Refund {
    /// Account.
    pub(crate) account: Account,
    /// Amount in dollars, such as 12.50.
    pub(crate) amount: Credits,
    /// Reason, as the bill shows it.
    #[arg(long)]
    pub(crate) reason: Reason,
    /// Month (UTC), such as 2026-11. Default: this one.
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<Period>,
    /// Id of the refund. A second refund with the same id changes nothing. Default: a new one,
    /// which is shown.
    #[arg(long)]
    pub(crate) id: Option<RefundId>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("limits").required(true).multiple(true))]
pub(crate) struct Limit {
    /// Account.
    pub(crate) account: Account,
    /// Part of the account, such as research/alice.
    #[arg(long)]
    pub(crate) part: Option<Part>,
    /// The most in a month: dollars, `unset` to remove the limit, or for a part `none`, which lifts
    /// the tier's limit, too. Without a part it limits pay-as-you-go spending.
    #[arg(long, group = "limits", value_name = "AMOUNT", value_parser = limit)]
    pub(crate) per_month: Option<Setting>,
    /// The most on a day (UTC): dollars, `unset` to remove the limit, or for a part `none`, which
    /// lifts the tier's limit, too. Of an account, the lower of this and the tier's counts.
    #[arg(long, group = "limits", value_name = "AMOUNT", value_parser = limit)]
    pub(crate) per_day: Option<Setting>,
}

/// A limit to be set: `None` removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting(pub(crate) Option<Credits>);

#[derive(Debug, Args)]
pub(crate) struct Seats {
    /// Account.
    pub(crate) account: Account,
    /// Number of seats, 1 or more.
    pub(crate) seats: NonZeroU32,
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// Account. Default: all that used something in the month.
    pub(crate) account: Option<Account>,
    /// Month (UTC), such as 2026-11. Default: the last one.
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<Period>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Account. Default: all that used something in the month.
    pub(crate) account: Option<Account>,
    /// Month (UTC), such as 2026-11. Default: this one.
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<Period>,
}

#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// Account.
    pub(crate) account: Account,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Issues a token, and shows its secret once.
    Issue(IssueToken),
    /// Lists the tokens of an account.
    List {
        /// Account.
        account: Account,
    },
    /// Changes the tier of all tokens of an account.
    Tier {
        /// Account.
        account: Account,
        /// Tier of the plan.
        tier: TierName,
    },
    /// Revokes a token.
    Revoke(RevokeToken),
}

#[derive(Debug, Args)]
pub(crate) struct IssueToken {
    /// Account that pays.
    pub(crate) account: Account,
    /// Tier of the plan.
    #[arg(long)]
    pub(crate) tier: TierName,
    /// Caller, as the bill names them. Default: the account's own name.
    #[arg(long)]
    pub(crate) subject: Option<Subject>,
    /// Part of the account that the token is of.
    #[arg(long)]
    pub(crate) part: Option<Part>,
    /// Organisation that the token may bill, and its tier: `acme=enterprise`. Can be repeated.
    #[arg(long = "member-of", value_name = "ORGANISATION=TIER", value_parser = membership)]
    pub(crate) member_of: Vec<(String, TierName)>,
    /// Label, for the list.
    #[arg(long, default_value = "")]
    pub(crate) label: String,
    /// Time after which it expires, such as 30d. Default: never.
    #[arg(long, value_parser = duration)]
    pub(crate) lifetime: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true),
    override_usage = "credits tokens revoke <ACCOUNT> <ID>\n       credits tokens revoke --secret"
)]
pub(crate) struct RevokeToken {
    /// Account of the token.
    #[arg(requires = "id")]
    pub(crate) account: Option<Account>,
    /// Id of the token: 16 digits of the list.
    #[arg(group = "which", requires = "account")]
    pub(crate) id: Option<String>,
    /// Reads the secret of a token that leaked from the standard input.
    #[arg(long, group = "which", conflicts_with = "account")]
    pub(crate) secret: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// Checks a plan file: what each route runs and costs, and what is odd.
    Check(CheckPlan),
}

#[derive(Debug, Args)]
pub(crate) struct CheckPlan {
    /// Plan file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Path, with a query or not, of a request: what it runs, or which route it nearly has. Can be
    /// repeated.
    #[arg(long = "path", value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Header field of these requests: `x-model: llama`. Can be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(subcommand)]
    pub(crate) to: ExportTo,
    /// File that says what was sent to this receiver. Never lose it, and never put an older copy
    /// back.
    #[arg(long, global = true, value_hint = ValueHint::FilePath)]
    pub(crate) state: Option<PathBuf>,
    /// Makes the state file: nothing was sent to this receiver before.
    #[arg(long, global = true)]
    pub(crate) new_state: bool,
    /// Month (UTC), such as 2026-11; can be repeated. Default: this one and the two
    /// before.
    #[arg(long = "period", global = true, value_name = "MONTH")]
    pub(crate) periods: Vec<Period>,
    /// Shows what would be sent. Sends and writes nothing.
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Decides about the events that are in doubt, before the export.
    #[arg(long, global = true, value_enum, value_name = "DECISION")]
    pub(crate) doubts: Option<Doubts>,
    /// Limits --doubts to events of these ids. Can be repeated.
    #[arg(long = "doubt", global = true, value_name = "EVENT_ID", requires = "doubts")]
    pub(crate) doubt_ids: Vec<String>,
    /// Drops the events that the receiver refused before, before the export: it never gets them.
    #[arg(long, global = true)]
    pub(crate) drop_refused: bool,
    /// Text that goes into the ids of events, to tell ledgers that export to one receiver. Do not
    /// change it for a state file that was used.
    #[arg(long, global = true, default_value = "tower-credits")]
    pub(crate) namespace: String,
    /// The time for which a delivery is tried again.
    #[arg(long, global = true, default_value = "60s", value_parser = duration)]
    pub(crate) retry_for: Duration,
}

/// Decision about events that may have arrived longer ago than a receiver remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Doubts {
    /// They have arrived.
    Arrived,
    /// They have not arrived: they are sent again.
    Lost,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportTo {
    /// Appends events to a file, as lines of JSON.
    JsonLines {
        /// File.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Appends events to a file, as rows of comma-separated values.
    Csv {
        /// File.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Posts events to OpenMeter.
    Openmeter {
        /// URL.
        #[arg(default_value = "https://openmeter.cloud/api/v1/events", value_hint = ValueHint::Url)]
        url: String,
        /// File with the token.
        #[arg(long, value_hint = ValueHint::FilePath)]
        key_file: Option<PathBuf>,
        /// Type of the events, by which meters choose them.
        #[arg(long, default_value = "usage")]
        event_type: String,
        /// Time for which OpenMeter is set up to know an event again, such as 24h.
        #[arg(long, default_value = "24h", value_parser = duration)]
        dedupe_window: Duration,
    },
    /// Posts events to a meter of Stripe Billing.
    Stripe {
        /// Name of the meter's events.
        event_name: String,
        /// File with a line for each account: account, comma, customer.
        #[arg(long, value_hint = ValueHint::FilePath)]
        customers: PathBuf,
        /// File with the secret key.
        #[arg(long, value_hint = ValueHint::FilePath)]
        key_file: PathBuf,
        /// Number that is sent: nano-usd, microseconds or requests.
        #[arg(long, default_value = "nano-usd")]
        measure: Measure,
        /// The most calls in a second: 25 in the test mode, 1000 with live keys.
        #[arg(long, default_value = "20")]
        calls_per_second: NonZeroU32,
        /// URL of a proxy.
        #[arg(long, value_hint = ValueHint::Url)]
        url: Option<String>,
    },
    /// Posts events to Lago.
    Lago {
        /// Code of the billable metric.
        code: String,
        /// File with the API key.
        #[arg(long, value_hint = ValueHint::FilePath)]
        key_file: PathBuf,
        /// File with a line for each account: account, comma, subscription. Default: subscriptions
        /// are named like accounts.
        #[arg(long, value_hint = ValueHint::FilePath)]
        subscriptions: Option<PathBuf>,
        /// URL.
        #[arg(
            long,
            default_value = "https://api.getlago.com/api/v1/events/batch",
            value_hint = ValueHint::Url
        )]
        url: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The time between two looks.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(crate) every: Duration,
    /// Ends after so many looks. Default: never.
    #[arg(long, value_name = "LOOKS")]
    pub(crate) count: Option<NonZeroU32>,
    /// Accounts that are shown.
    #[arg(long, default_value = "20")]
    pub(crate) top: NonZeroU32,
    /// URL (http://) of a node's Prometheus metrics, for requests and denials. Can be repeated.
    #[arg(long = "metrics", value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) metrics: Vec<String>,
}

/// Reads a time such as `30d` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number and a unit, such as 500ms, 30s or 7d"))
}

fn limit(text: &str) -> Result<Setting, String> {
    match text {
        "none" => Ok(Setting(Some(Credits::MAX))),
        "unset" => Ok(Setting(None)),
        amount => amount
            .parse()
            .map(|amount| Setting(Some(amount)))
            .map_err(|error| format!("{error}, or `none`, or `unset`")),
    }
}

fn membership(text: &str) -> Result<(String, TierName), String> {
    let (organisation, tier) =
        text.split_once('=').ok_or("write an organisation, `=` and its tier: acme=enterprise")?;
    // Checked as an account's name.
    Account::org(organisation).map_err(|error| error.to_string())?;
    Ok((organisation.to_owned(), tier.parse().map_err(|error| format!("{error}"))?))
}

fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write a name, a colon and a value")?;
    let name = name.trim().parse().map_err(|error| format!("{error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{error}"))?;
    Ok((name, value))
}

/// Returns the name of an account without its kind.
pub(crate) fn own_name(account: &Account) -> Result<Name, String> {
    let text = account.as_str();
    text.split_once(':').map_or(text, |(_, name)| name).parse().map_err(|error| format!("{error}"))
}
