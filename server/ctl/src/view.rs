//! Options of lists: their form, and how often they are shown.

use std::time::Duration;

use serde_json::Value;

use crate::error::Error;
use crate::format::Template;
use crate::human::{self, parse_duration};
use crate::output::Output;

/// Options that lists share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct View {
    /// Go template: json, table, '{{.Name}}', 'table {{.Name}}\t{{.Labels.app}}'
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse)]
    pub(crate) format: Option<Template>,

    /// Cut nothing; otherwise names are cut to fit the terminal
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// Show it again every 2 seconds, or as often as given, until it is interrupted
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = parse_duration
    )]
    watch: Option<Duration>,
}

impl View {
    /// Prints rows through the template, if there is one; false if the command's own form is wanted.
    pub(crate) fn print(
        &self,
        rows: impl FnOnce() -> Vec<Value>,
        out: &mut Output,
    ) -> Result<bool, Error> {
        match self.format.as_ref().filter(|template| !template.is_table()) {
            None => Ok(false),
            Some(template) => template.print(&rows(), out).map(|()| true),
        }
    }

    /// Shows a list once, or again and again.
    pub(crate) async fn show(
        &self,
        out: &mut Output,
        mut list: impl AsyncFnMut(&mut Output) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.no_trunc {
            out.columns = None;
        }
        let Some(every) = self.watch else {
            return list(out).await;
        };
        loop {
            out.clear()?;
            out.now = human::now();
            list(out).await?;
            out.flush()?;
            tokio::time::sleep(every).await;
        }
    }
}
