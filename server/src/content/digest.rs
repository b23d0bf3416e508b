//! Digests of blobs.

use std::fmt;

use layerd_store::BadInput;

const PREFIX: &str = "sha256:";

/// A SHA-256, as OCI writes it: `sha256:` and 64 digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// Reads a digest.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, BadInput> {
        let bytes = text.strip_prefix(PREFIX).and_then(bytes);
        bytes.map(Self).ok_or_else(|| {
            let text: String = text.chars().take(80).collect();
            let rule = format!("must be `{PREFIX}` and 64 digits from 0 to f, not {text:?}");
            BadInput::new(field, rule)
        })
    }

    /// The digits alone: the name of the blob's file.
    pub(crate) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn bytes(digits: &str) -> Option<[u8; 32]> {
    let all = digits
        .bytes()
        .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 64 || !all {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..][..2], 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn comes_back_as_it_was() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(Digest::parse("d", &text).unwrap().to_string(), text);
    }

    #[test]
    fn nothing_else_passes_as_a_name_of_a_file() {
        let bad = [
            String::new(),
            "sha256:".to_owned(),
            format!("sha512:{}", "0".repeat(64)),
            format!("sha256:{}", "0".repeat(63)),
            format!("sha256:{}", "0".repeat(65)),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha256:{}", "é".repeat(32)),
            format!("sha256:../{}", "0".repeat(61)),
            format!("sha256:+{}", "0".repeat(63)),
        ];
        for text in bad {
            assert!(Digest::parse("d", &text).is_err(), "{text}");
        }
    }
}
