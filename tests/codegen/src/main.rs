//! Makes the gRPC code of the examples from its `.proto`, without `protoc`: `cargo run -p codegen`.
//! With `--check` it changes nothing, and fails where what is there is old.
//!
//! A package of its own, so that nobody who runs an example has to build a compiler of `.proto`
//! files first.

use std::{error::Error, fs, path::Path, process::ExitCode};

use protox::prost::Message;

/// The code, and the descriptors that server reflection serves.
const MADE: [&str; 2] = ["denoise.v1.rs", "descriptors.bin"];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let checks = std::env::args().nth(1).is_some_and(|argument| argument == "--check");
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/denoise"));
    let out = std::env::temp_dir().join(format!("tower-credits-codegen-{}", std::process::id()));
    fs::create_dir_all(&out)?;

    let descriptors = protox::compile([folder.join("denoise.proto")], [folder])?;
    fs::write(out.join(MADE[1]), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").out_dir(&out).compile_fds(descriptors)?;

    let mut old = Vec::new();
    for name in MADE {
        let made = fs::read(out.join(name))?;
        if !checks {
            fs::write(folder.join(name), made)?;
        } else if fs::read(folder.join(name)).ok() != Some(made) {
            old.push(name);
        }
    }
    fs::remove_dir_all(out)?;
    if old.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("old: {}: run `cargo run -p codegen`", old.join(", "));
    Ok(ExitCode::FAILURE)
}
