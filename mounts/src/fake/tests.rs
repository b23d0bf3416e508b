use nix::errno::Errno;

use super::FakeMounter;
use crate::mounter::{BindOptions, DetachMode, Detached, Mounter, Symlinks, contract};

#[test]
fn keeps_the_contract() {
    let scratch = tempfile::tempdir().expect("a directory");
    contract::check(&FakeMounter::new(), scratch.path());
}

#[test]
fn fails_at_the_step_it_was_told() {
    let scratch = tempfile::tempdir().expect("a directory");
    let fake = FakeMounter::new();
    let attach = || {
        let source = fake.open_source(scratch.path(), Symlinks::Follow)?;
        let tree = fake.bind(&source, &BindOptions::default())?;
        fake.attach(tree, &source)
    };
    for nth in 1..=3 {
        fake.fail_at(nth, Errno::EIO);
        let error = attach().expect_err("told to fail");
        assert_eq!(error.errno(), Some(Errno::EIO as i32));
        assert_eq!(fake.mounts(), [], "a failure leaves nothing");
        assert!(!fake.heal(), "the failure was reached");
    }
    fake.fail_at(4, Errno::EIO);
    let attached = attach().expect("three steps");
    assert!(fake.heal(), "the failure was not reached");
    fake.set_busy(attached.id, true);
    let detach = |mode| fake.detach(scratch.path(), &attached, mode);
    detach(DetachMode::Normal).expect_err("busy");
    let gone = detach(DetachMode::Lazy).expect("lazily");
    assert_eq!(gone, Detached::Now);
}

#[test]
fn a_reboot_takes_all_mounts() {
    let scratch = tempfile::tempdir().expect("a directory");
    let fake = FakeMounter::new();
    fake.add_foreign_mount(scratch.path());
    assert_eq!(fake.mounts().len(), 1);
    fake.reboot();
    assert_eq!(fake.mounts(), []);
}
