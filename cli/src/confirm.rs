//! Questions before what cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Asks a person to type a text. Without a terminal, `--yes` is needed.
pub(crate) fn typed(question: &str, expected: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let reason = format!("{question} Pass --yes to do it without a question");
        return Err(Failure::NotConfirmed(reason));
    }
    let mut output = io::stderr().lock();
    write!(output, "{question}\nType `{expected}` to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == expected {
        return Ok(());
    }
    Err(Failure::NotConfirmed(format!("`{expected}` was not typed")))
}
