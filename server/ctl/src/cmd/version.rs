//! `layerctl version`.

use layerd_proto::layerd::v1::InfoResponse;
use serde::Serialize;

use super::Daemon;
use crate::error::Error;
use crate::output::Output;
use crate::text::escape;

/// Shows the versions of layerctl and of the daemon
///
/// While the daemon cannot be reached, the version of layerctl is shown alone and the command fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Versions<'a> {
    client: Client,
    server: Option<Server<'a>>,
}

#[derive(Debug, Serialize)]
struct Client {
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Server<'a> {
    version: &'a str,
    driver: &'a str,
    kernel: &'a str,
}

pub(crate) async fn run(_args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let info = match daemon.connect().await {
        Ok(mut client) => client.info().await,
        Err(error) => Err(error),
    };
    show(info.as_ref().ok(), out)?;
    info.map(drop)
}

fn show(info: Option<&InfoResponse>, out: &mut Output) -> Result<(), Error> {
    let server = info.map(|info| Server {
        version: &info.version,
        driver: &info.driver,
        kernel: &info.kernel,
    });
    let client = Client {
        version: env!("CARGO_PKG_VERSION"),
    };
    if out.json {
        return out.object(&Versions { client, server });
    }
    let mut lines = vec![
        "Client:".to_owned(),
        format!(" Version: {}", client.version),
    ];
    if let Some(server) = server {
        lines.extend([
            "Server:".to_owned(),
            format!(" Version: {}", server.version),
            format!(" Storage Driver: {}", server.driver),
            format!(" Kernel Version: {}", server.kernel),
        ]);
    }
    lines.iter().try_for_each(|line| out.line(&escape(line)))
}
