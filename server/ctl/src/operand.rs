//! Operands that name something in the trash: by its id, or by the name it had.

use crate::error::Error;

/// One operand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) text: &'a str,
    /// Verb of the command.
    pub(crate) attempt: &'a str,
    /// Word for one of the things that it can name.
    pub(crate) noun: &'a str,
    /// Advice for one that names nothing.
    pub(crate) hint: &'a str,
}

impl Operand<'_> {
    /// The one thing that it names; `of` has the id and the name of each. Ids are made of letters, too,
    /// so that a text can be the id of one and the name of another: that is refused, since the command
    /// may delete.
    pub(crate) fn choose<'t, T>(
        &self,
        trash: &'t [T],
        of: impl Fn(&T) -> (&str, &str),
    ) -> Result<&'t T, Error> {
        let what = format!("{} {} \"{}\"", self.attempt, self.noun, self.text);
        let by_id = trash.iter().find(|one| of(one).0 == self.text);
        let named = trash
            .iter()
            .filter(|one| of(one).1 == self.text && of(one).0 != self.text);
        let named: Vec<&T> = named.collect();
        let ids: Vec<_> = named.iter().map(|one| of(one).0).collect();
        let ids = ids.join(", ");
        match (by_id, &named[..]) {
            (Some(one), []) => Ok(one),
            (None, [one]) => Ok(*one),
            (None, []) => Err(Error::NotFound {
                what,
                why: "it is not in the trash".to_owned(),
                hint: self.hint.to_owned(),
            }),
            (None, several) => Err(Error::Invalid {
                what,
                why: format!("{} removed {}s had that name", several.len(), self.noun),
                hint: format!("Choose one by its id: {ids}"),
            }),
            (Some(one), _) => Err(Error::Invalid {
                what,
                why: "it is the id of one and the name that another had".to_owned(),
                hint: format!("Choose \"{}\" by that name, or by id: {ids}", of(one).1),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Operand;

    #[test]
    fn an_operand_that_names_two_is_refused() {
        let trash = [
            ("db", "data"),
            ("a1", "db"),
            ("a2", "x"),
            ("a3", "x"),
            ("self", "self"),
        ];
        let choose = |text| {
            let operand = Operand {
                text,
                attempt: "purge",
                noun: "volume",
                hint: "",
            };
            let found = operand
                .choose(&trash, |one| (one.0, one.1))
                .map(|one| one.0);
            found.map_err(|error| error.hint().unwrap_or_default().to_string())
        };
        assert_eq!(choose("data"), Ok("db"));
        assert_eq!(choose("a2"), Ok("a2"));
        assert_eq!(choose("self"), Ok("self"));
        assert_eq!(choose("x"), Err("Choose one by its id: a2, a3".to_owned()));
        let both = "Choose \"data\" by that name, or by id: a1".to_owned();
        assert_eq!(choose("db"), Err(both));
        assert!(choose("none").is_err());
    }
}
