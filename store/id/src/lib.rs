//! The one spelling of ids of layers and volumes: lower-case base 36 without leading zeros.
//!
//! Folders on disk have it as their name, and logs, errors, the API and layerctl show the same text, so
//! that an id that was read anywhere finds the folder. The store's types of ids are spelled by it, too.

use std::fmt;
use std::str::FromStr;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Number of the folder of one layer or volume. Written in base 36, so that 500 of them fit
/// into the one page of options that mount(2) takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// Stands, as the only parent in a `Stack` of a driver, for an empty directory: below a
    /// writable layer whose parents are not known yet, so that deletions can be noted in it. No
    /// layer has this number.
    pub const EMPTY_LOWER: Self = Self(0);
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 13]; // u64::MAX has 13 digits
        let mut at = text.len();
        let mut rest = self.0;
        loop {
            at -= 1;
            text[at] = DIGITS[usize::try_from(rest % 36).expect("a digit is below 36")];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        f.pad_integral(
            true,
            "",
            std::str::from_utf8(&text[at..]).expect("digits are ASCII"),
        )
    }
}

/// A text that spells no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected lower-case base 36 without leading zeros, below 2^64")]
pub struct BadSlot;

impl FromStr for Slot {
    type Err = BadSlot;

    /// Takes the spelling that `Display` gives and no other, so that two names are never one slot.
    fn from_str(text: &str) -> Result<Self, BadSlot> {
        let canonical = text == "0" || !text.starts_with('0');
        let plain = text.bytes().all(|byte| DIGITS.contains(&byte));
        if !canonical || !plain {
            return Err(BadSlot);
        }
        u64::from_str_radix(text, 36).map(Self).map_err(|_| BadSlot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{BadSlot, Slot};

    #[test]
    fn known_spellings() {
        let table = [
            (0, "0"),
            (9, "9"),
            (35, "z"),
            (36, "10"),
            (1295, "zz"),
            (1_679_616, "10000"),
            (u64::MAX, "3w5e11264sgsf"),
        ];
        for (number, text) in table {
            assert_eq!(Slot(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Slot(number)));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "00",
            "01",
            "A",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1.w",
            "é",
            "3w5e11264sgsg",
        ] {
            assert_eq!(text.parse::<Slot>(), Err(BadSlot), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_slot_comes_back(number in any::<u64>()) {
            assert_eq!(Slot(number).to_string().parse(), Ok(Slot(number)));
        }

        #[test]
        fn what_parses_is_spelled_that_way(text in "[0-9a-zA-Z+]{0,14}") {
            if let Ok(slot) = text.parse::<Slot>() {
                assert_eq!(slot.to_string(), text);
            }
        }
    }
}
