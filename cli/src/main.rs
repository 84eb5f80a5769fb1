//! `credits`: the accounts, tokens and plans of tower-credits from a shell.

mod arguments;
mod commands;
mod confirm;
mod failure;
mod output;
mod progress;
mod store;

use std::{io, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    arguments::{Arguments, Command, Plan, Tokens},
    failure::{Done, Failure},
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What the library warns of, such as a setting that cannot be read.
    let filter = EnvFilter::try_from_env("CREDITS_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let json = arguments.global.json;
    let only_shows = only_shows(&arguments.command);
    match run(arguments).await {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Found) => ExitCode::from(3),
        // `credits list | head` is no failure: who reads has enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe && only_shows => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // It may have what a server said.
            let text = output::printable(&failure.to_string());
            if json {
                eprintln!("{}", serde_json::json!({ "error": text }));
            } else {
                eprintln!("error: {text}");
            }
            failure.exit_code()
        }
    }
}

/// `true` if a command does nothing but show, and finds nothing out.
const fn only_shows(command: &Command) -> bool {
    matches!(
        command,
        Command::Show(_)
            | Command::List(_)
            | Command::Tokens(Tokens::List { .. })
            | Command::Watch(_)
            | Command::Completions { .. }
            | Command::Man { .. }
    )
}

async fn run(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Show(show) => commands::show::run(&global, show).await,
        Command::List(list) => commands::list::run(&global, list).await,
        Command::Costs(costs) => commands::costs::run(&global, costs).await,
        Command::Grant(grant) => commands::change::grant(&global, grant).await,
        Command::Refund(refund) => commands::change::refund(&global, refund).await,
        Command::Limit(limit) => commands::limit::run(&global, limit).await,
        Command::Seats(seats) => commands::change::seats(&global, seats).await,
        Command::Close(close) => commands::close::run(&global, close).await,
        Command::Audit(audit) => commands::audit::run(&global, audit).await,
        Command::Erase(erase) => commands::change::erase(&global, erase).await,
        Command::Tokens(Tokens::Issue(issue)) => commands::tokens::issue(&global, issue).await,
        Command::Tokens(Tokens::List { account }) => {
            commands::tokens::list(&global, &account).await
        }
        Command::Tokens(Tokens::Tier { account, tier }) => {
            commands::tokens::tier(&global, &account, &tier).await
        }
        Command::Tokens(Tokens::Revoke(revoke)) => commands::tokens::revoke(&global, revoke).await,
        Command::Plan(Plan::Check(check)) => commands::plan::check(&global, &check),
        Command::Export(export) => commands::export::run(&global, export).await,
        Command::Watch(watch) => commands::watch::run(&global, watch).await,
        Command::Doctor => commands::doctor::run(&global).await,
        Command::Completions { shell } => commands::manual::completions(shell),
        Command::Man { out } => commands::manual::pages(out.as_deref()),
    }
}
