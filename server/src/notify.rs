//! Notifications to systemd: readiness, stopping, and the watchdog (sd_notify(3)).

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Requests can be served.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon is on its way out.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The daemon works.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// Longest interval between calls of [`alive`]; `None` without a watchdog.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Without systemd this does nothing.
fn send(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        warn!(
            error = &cause as &dyn std::error::Error,
            "tell systemd about the state"
        );
    }
}
