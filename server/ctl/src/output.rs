//! Where results go and in which form.

use std::io::Write;

use serde::Serialize;

use crate::error::Error;
use crate::table::Table;
use crate::text;

/// The output of one run.
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) colour: bool,
    /// Set if standard output is a terminal.
    pub(crate) terminal: bool,
    /// Width of the terminal; `None` where nothing is to be cut.
    pub(crate) columns: Option<u16>,
    /// Height of the terminal, if standard output is one.
    pub(crate) lines: Option<u16>,
    /// Seconds since 1970.
    pub(crate) now: i64,
    pub(crate) out: Box<dyn Write>,
}

impl Output {
    /// One JSON object on a line of its own.
    pub(crate) fn object(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let json = serde_json::to_string(value).map_err(|cause| Error::Output(cause.into()))?;
        self.line(&text::escape_json(&json))
    }

    /// A line that is safe to print.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.out, "{line}").map_err(Error::Output)
    }

    /// Prints a line of progress on standard error: the output stays clean.
    pub(crate) fn progress(&mut self, line: &str) -> Result<(), Error> {
        self.flush()?;
        writeln!(std::io::stderr(), "{line}").map_err(Error::Output)
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Error> {
        table
            .write(&mut *self.out, self.colour, self.columns)
            .map_err(Error::Output)
    }

    /// Clears the screen of a terminal.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        match self.terminal {
            true => self.raw(b"\x1b[H\x1b[2J"),
            false => Ok(()),
        }
    }

    /// Has what was written read by now.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::Output)
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Output)
    }
}
