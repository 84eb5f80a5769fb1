//! The example's gRPC code is made from its `.proto` here, without `protoc`.

use std::path::Path;

use protox::prost::Message;

/// `UPDATE=1 cargo test --all-features generated` writes it anew.
#[test]
fn the_examples_code_is_what_its_proto_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/denoise");
    let descriptors = protox::compile([folder.join("denoise.proto")], [&folder]).unwrap();
    let made = std::env::temp_dir().join(format!("tower-credits-generated-{}", std::process::id()));
    std::fs::create_dir_all(&made).unwrap();
    std::fs::write(made.join("descriptors.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure().out_dir(&made).compile_fds(descriptors).unwrap();
    for name in ["denoise.v1.rs", "descriptors.bin"] {
        if std::env::var_os("UPDATE").is_some() {
            std::fs::copy(made.join(name), folder.join(name)).unwrap();
        }
        let (made, kept) = (std::fs::read(made.join(name)).unwrap(), std::fs::read(folder.join(name)).unwrap_or_default());
        assert!(made == kept, "examples/denoise/{name} is old: run this test with UPDATE=1");
    }
    std::fs::remove_dir_all(made).unwrap();
}
