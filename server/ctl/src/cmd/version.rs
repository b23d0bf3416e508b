//! `layerctl version`.

use layerd_proto::layerd::v1::InfoResponse;
use serde::Serialize;
use serde_json::{Value, json};

use super::Daemon;
use crate::error::Error;
use crate::format::Template;
use crate::output::Output;
use crate::text::escape;

/// Shows the versions of layerctl and of the daemon
///
/// While the daemon cannot be reached, the version of layerctl is shown alone and the command fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go template, such as '{{.Server.Version}}', or json
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
}

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

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let info = match daemon.connect().await {
        Ok(mut client) => client.info().await,
        Err(error) => Err(error),
    };
    show(info.as_ref().ok(), args.format.as_ref(), out)?;
    info.map(drop)
}

fn show(
    info: Option<&InfoResponse>,
    template: Option<&Template>,
    out: &mut Output,
) -> Result<(), Error> {
    let server = info.map(|info| Server {
        version: &info.version,
        driver: &info.driver,
        kernel: &info.kernel,
    });
    let client = Client {
        version: env!("CARGO_PKG_VERSION"),
    };
    if let Some(template) = template.filter(|template| !template.is_table()) {
        return template.print(&[fields(&client, server.as_ref())], out);
    }
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

/// Fields of `--format`. Without a daemon Server is null.
fn fields(client: &Client, server: Option<&Server<'_>>) -> Value {
    json!({
        "Client": {"Version": client.version},
        "Server": server.map(|server| json!({
            "Version": server.version,
            "Driver": server.driver,
            "KernelVersion": server.kernel,
        })),
    })
}
