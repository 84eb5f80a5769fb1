//! x
mod account;
mod clock;
mod lease;
mod ledger;
mod money;
mod period;
pub use account::*;
pub use clock::*;
pub use lease::*;
pub use ledger::*;
pub use money::*;
pub use period::*;
