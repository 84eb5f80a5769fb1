//! `credits completions` and `credits man`.

use std::{fs, io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    arguments::Arguments,
    failure::{Done, Failure},
};

pub(crate) fn completions(shell: Shell) -> Result<Done, Failure> {
    let mut written = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "credits", &mut written);
    io::Write::write_all(&mut io::stdout().lock(), &written)?;
    Ok(Done::Well)
}

pub(crate) fn pages(out: Option<&Path>) -> Result<Done, Failure> {
    let command = Arguments::command();
    match out {
        None => clap_mangen::Man::new(command).render(&mut io::stdout().lock())?,
        Some(folder) => {
            let unusable = |error: io::Error| Failure::unusable(&folder.display(), &error);
            fs::create_dir_all(folder).map_err(unusable)?;
            clap_mangen::generate_to(command, folder).map_err(unusable)?;
        }
    }
    Ok(Done::Well)
}
