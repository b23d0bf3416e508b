//! Layers for unpacking, in memory.
#![no_main]

mod mend;
mod unpack;

use std::path::Path;
use std::process::Command;
use std::sync::Once;

/// A tmpfs is mounted here, in the mount namespace that run.sh makes.
const PLACE: &str = "/mnt";

static MOUNT: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let place = Path::new(PLACE);
    MOUNT.call_once(|| {
        let mut mount = Command::new("mount");
        let status = mount
            .args(["-t", "tmpfs", "-o", "size=512m", "fuzz", PLACE])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "run.sh needs root"
        );
        unpack::surround(place);
    });
    unpack::unpack(data, place);
});
