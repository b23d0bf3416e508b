//! gRPC clients of other languages, which call layerd without settings of their own.
#![expect(
    clippy::tests_outside_test_module,
    reason = "this file is tests as a whole"
)]

use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Daemon, Scratch, peers};

/// Their `:authority` is the percent-encoded path of the socket.
#[test]
fn root_clients_on_grpcs_c_core_are_served() {
    let scratch = Scratch::new();
    let csi = scratch.path().join("csi.sock");
    let daemon = Daemon::start_with(scratch.path(), &["--csi-socket", csi.to_str().unwrap()]);
    let mut python = Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/c_core.py");
    python.arg(script).arg(daemon.socket()).arg(&csi);
    python.env("PYTHONPATH", peers::grpcio());
    output(&mut python);
}
