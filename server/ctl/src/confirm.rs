//! Asking a person before something is deleted.

use std::io::{self, IsTerminal, Write};

use crate::error::Error;

/// A question before a change, with the texts for a refusal.
pub(crate) struct Confirmation {
    /// Completes "cannot ...".
    pub(crate) what: &'static str,
    /// Advice where standard input is no terminal.
    pub(crate) unasked: &'static str,
    /// Text after a no.
    pub(crate) declined: &'static str,
}

impl Confirmation {
    /// Asks on standard error, so that the output stays clean. Only a yes is success.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Error> {
        match self.is_confirmed(question)? {
            true => Ok(()),
            false => Err(self.refused("the answer was not yes", self.declined)),
        }
    }

    /// Asks likewise; answers whether it was a yes.
    pub(crate) fn is_confirmed(&self, question: &str) -> Result<bool, Error> {
        if !io::stdin().is_terminal() {
            let why = "confirmation is needed, and standard input is no terminal";
            return Err(self.refused(why, self.unasked));
        }
        let failed = |cause| Error::Io {
            what: "ask".to_owned(),
            cause,
        };
        write!(io::stderr(), "{question} [y/N] ").map_err(failed)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(failed)?;
        let answer = answer.trim().to_ascii_lowercase();
        Ok(matches!(answer.as_str(), "y" | "yes"))
    }

    fn refused(&self, why: &str, hint: &str) -> Error {
        Error::Refused {
            what: self.what.to_owned(),
            why: why.to_owned(),
            hint: hint.to_owned(),
        }
    }
}
