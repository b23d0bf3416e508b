//! Text from elsewhere, made safe to print: keys and labels are whatever a client or an image
//! author wrote.

/// Writes control characters, invisible ones and those that change direction as escapes. A
/// backslash is doubled, so that no two texts look the same.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\'' => safe.push(char),
            _ => safe.extend(char.escape_debug()),
        }
    }
    safe
}

/// As [`escape`], but leaves backslashes alone: for messages, whose writers escaped what they quote.
pub(crate) fn escape_message(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\'' | '\\' => safe.push(char),
            _ => safe.extend(char.escape_debug()),
        }
    }
    safe
}

/// Escapes the characters that JSON allows and terminals obey. The value stays the same.
pub(crate) fn escape_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for char in json.chars() {
        let code = u32::from(char);
        let harmless = char.is_ascii_graphic() || char == ' ' || is_visible(char);
        if harmless || code > 0xffff {
            safe.push(char);
        } else {
            safe.push_str(&format!("\\u{code:04x}"));
        }
    }
    safe
}

/// True if the standard library would print it unescaped.
fn is_visible(char: char) -> bool {
    !char.is_ascii() && char.escape_debug().count() == 1
}

/// Shortens digests for people: `sha256:` and 64 digits become 12 digits.
pub(crate) fn shorten(text: &str) -> String {
    const DIGITS: usize = 64;
    const SHOWN: usize = 12;
    let Some(start) = text.find("sha256:").map(|at| at + "sha256:".len()) else {
        return text.to_owned();
    };
    let digits = text[start..]
        .bytes()
        .take_while(u8::is_ascii_hexdigit)
        .count();
    if digits != DIGITS {
        return text.to_owned();
    }
    format!("{}{}", &text[..start + SHOWN], &text[start + DIGITS..])
}

/// A value in containerd's filter language, quoted.
pub(crate) fn filter_value(value: &str) -> String {
    let mut quoted = String::from('"');
    for char in value.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            ' '..='~' => quoted.push(char),
            _ => quoted.push_str(&format!("\\U{:08x}", u32::from(char))),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::{escape, escape_json, escape_message, filter_value, shorten};

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let table = [
            ("k8s.io/7/sha256:ab", "k8s.io/7/sha256:ab"),
            ("a \"b\" 'c'", "a \"b\" 'c'"),
            ("牛é", "牛é"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gpj", "\\u{202e}gpj"),
            ("\\n", "\\\\n"),
        ];
        for (raw, safe) in table {
            assert_eq!(escape(raw), safe);
        }
    }

    #[test]
    fn messages_are_not_escaped_twice() {
        let once = escape("\x1b[2J");
        assert_eq!(
            escape_message(&format!("it is {once}, \n")),
            format!("it is {once}, \\n")
        );
    }

    #[test]
    fn escaped_json_means_the_same() {
        let raw = "\x1b\u{7f}\u{9b}\u{202e}é牛\u{10ffff}\"\\\n";
        let json = escape_json(&serde_json::to_string(raw).unwrap());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), raw);
        assert!(!json.contains(['\u{7f}', '\u{9b}', '\u{202e}']), "{json:?}");
    }

    #[test]
    fn only_whole_digests_are_shortened() {
        let digest = "0123456789abcdef".repeat(4);
        let key = format!("k8s.io/7/extract-1 sha256:{digest}");
        assert_eq!(shorten(&key), "k8s.io/7/extract-1 sha256:0123456789ab");
        assert_eq!(shorten("sha256:abc"), "sha256:abc");
        assert_eq!(shorten(&format!("{key}0")), format!("{key}0"));
        assert_eq!(shorten("plain"), "plain");
    }

    #[test]
    fn filter_values_are_quoted() {
        assert_eq!(filter_value("a b"), "\"a b\"");
        assert_eq!(
            filter_value("\"\\\n牛"),
            "\"\\\"\\\\\\U0000000a\\U0000725b\""
        );
    }
}
