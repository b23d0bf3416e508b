//! Filling a volume while others attach it, and while the image goes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread::scope;

use layerd_store::VolumeName;

use crate::gate::{Gate, until};
use crate::layers::quarantine::tests::{Bench, key};
use crate::{CreateVolume, ErrorKind};

const MOUNT: &str = "type=volume,source=vol,target=/data";

fn bench() -> Bench {
    let bench = Bench::new();
    let request = CreateVolume {
        name: Some(name()),
        ..CreateVolume::default()
    };
    bench.engine.volumes.create_volume(&request).unwrap();
    bench
}

fn name() -> VolumeName {
    VolumeName::parse("name", "vol").unwrap()
}

fn content(bench: &Bench) -> PathBuf {
    bench.engine.volumes.volume(&name()).unwrap().path
}

fn is_filled(bench: &Bench) -> bool {
    let there = content(bench).join("f").exists();
    let record = bench.engine.volumes.volume(&name()).unwrap().volume;
    assert_eq!(there, !record.filled_from.is_empty());
    assert_eq!(bench.engine.volumes.dirs.list().unwrap().staged, []);
    there
}

/// Attaches with and without filling, the first held at a step.
fn attach_both(bench: &Bench, step: &'static str) -> u64 {
    let gate = Gate::new();
    bench.engine.volumes.dirs.hook.set(Some(gate.at(step)));
    scope(|scope| {
        let filling = scope.spawn(|| bench.attach("filling", MOUNT, Some("base")));
        gate.wait();
        let other = scope.spawn(|| {
            bench.attach("other", MOUNT, None)?;
            Ok::<_, crate::Error>(fs::metadata(content(bench)).unwrap().ino())
        });
        let waiting = || bench.engine.volumes.locks.waiting() > 0;
        until(&gate, || other.is_finished() || waiting());
        gate.open();
        filling.join().unwrap().unwrap();
        other.join().unwrap().unwrap()
    })
}

#[test]
fn what_is_mounted_while_the_copy_is_made_stays_in_its_place() {
    let bench = bench();
    let mounted = attach_both(&bench, "stage");
    assert_eq!(fs::metadata(content(&bench)).unwrap().ino(), mounted);
    assert!(!is_filled(&bench));
}

#[test]
fn who_mounts_during_the_exchange_waits_for_the_content() {
    let bench = bench();
    let mounted = attach_both(&bench, "exchange");
    assert_eq!(fs::metadata(content(&bench)).unwrap().ino(), mounted);
    assert!(is_filled(&bench));
}

#[test]
fn an_image_that_goes_or_is_found_damaged_meanwhile_fills_nothing() {
    type End = fn(&Bench);
    let remove: End = |bench| bench.engine.layers.remove(&key("base")).unwrap();
    let bar: End = |bench| {
        bench
            .engine
            .layers
            .bar(bench.id("base"), "a test".to_owned())
    };
    for (end, wanted) in [(remove, ErrorKind::Missing), (bar, ErrorKind::Damaged)] {
        let bench = bench();
        let gate = Gate::new();
        bench.engine.volumes.dirs.hook.set(Some(gate.at("stage")));
        scope(|scope| {
            let filling = scope.spawn(|| bench.attach("filling", MOUNT, Some("base")));
            gate.wait();
            end(&bench);
            gate.open();
            let refused = filling.join().unwrap().unwrap_err();
            assert_eq!(refused.kind(), wanted, "{refused:?}");
        });
        assert!(!is_filled(&bench));
    }
}

#[test]
fn a_volume_created_with_nocopy_is_not_filled() {
    let bench = Bench::new();
    let request = CreateVolume {
        name: Some(name()),
        options: [("nocopy".to_owned(), String::new())].into(),
        ..CreateVolume::default()
    };
    bench.engine.volumes.create_volume(&request).unwrap();
    bench.attach("one", MOUNT, Some("base")).unwrap();
    assert!(!is_filled(&bench));
}
