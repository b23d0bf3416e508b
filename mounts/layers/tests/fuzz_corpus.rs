//! Runs the fuzzer's corpus (`make fuzz`): inputs that reach every part of the reader and of
//! unpacking that it came to, and those that once failed.
#![allow(
    clippy::disallowed_methods,
    clippy::tests_outside_test_module,
    reason = "the whole file is tests, and what is shared with the fuzzer deletes what it made"
)]

#[path = "../fuzz/src/image.rs"]
mod image;
#[path = "../fuzz/src/mend.rs"]
mod mend;
#[path = "../fuzz/src/read.rs"]
mod read;
#[path = "../fuzz/src/unpack.rs"]
mod unpack;

use std::path::Path;

/// The inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(dir).expect("the corpus lies beside the fuzzer");
    let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file?.path());
    let inputs: Vec<_> = files
        .map(|file| read(file).expect("it can be read"))
        .collect();
    assert!(inputs.len() > 8, "{target}: {} inputs", inputs.len());
    inputs
}

#[test]
fn archives_are_read_or_refused() {
    for input in corpus("reader") {
        read::read(&input);
    }
}

#[test]
fn images_come_back_and_altered_ones_end() {
    for input in corpus("erofs") {
        image::image(&input);
    }
}

#[test]
fn random_images_come_back_and_altered_ones_end() {
    let config = proptest::test_runner::Config {
        cases: 300,
        failure_persistence: None,
        ..proptest::test_runner::Config::default()
    };
    let seed = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(config, seed);
    let inputs = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600);
    let result = runner.run(&inputs, |input| {
        image::image(&input);
        Ok(())
    });
    result.expect("images come back");
}

#[test]
fn root_layers_change_nothing_outside() {
    assert!(
        rustix::process::geteuid().is_root(),
        "layers have devices: run it as root"
    );
    let place = tempfile::tempdir().expect("a temporary directory");
    unpack::surround(place.path());
    for input in corpus("apply") {
        unpack::unpack(&input, place.path());
    }
}
