//! The process at the other end of a connection.

use std::fs;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use super::connection::{Connections, Exchange};

/// The program that calls, by the kernel's credentials of the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Process id of the caller; `None` if it lies outside this process's pid namespace.
    pub(super) pid: Option<i32>,
    pub(super) exchange: Arc<Exchange>,
}

/// The programs that speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// dockerd, and every program that is not known.
    Docker,
    /// podman, in all its processes.
    Podman,
}

impl Program {
    /// The first part of keys and owners of what it holds.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl Client {
    pub(super) fn program(&self) -> Program {
        let comm = self.pid.map(|pid| format!("/proc/{pid}/comm"));
        match comm.and_then(|path| fs::read_to_string(path).ok()) {
            Some(name) if name.trim_end().starts_with("podman") => Program::Podman,
            _ => Program::Docker,
        }
    }
}

impl Connected<IncomingStream<'_, Connections>> for Client {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        let connection = stream.io();
        Self {
            pid: connection.pid().filter(|pid| *pid > 0),
            exchange: connection.exchange(),
        }
    }
}
