//! Splits a filter into tokens, with upstream's habits.
//!
//! What a word may contain depends on what came before: after an operator it is a value and runs
//! to the next comma or white space, elsewhere it is a field. Quoted text is decoded on the way.

use std::sync::LazyLock;

use regex::Regex;

/// Characters of a value after its first one: letters, marks, numbers, punctuation and
/// symbols, but no comma, and not the character that stands for broken UTF-8.
static VALUE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\A[[\p{L}\p{M}\p{N}\p{P}\p{S}]--[,\u{FFFD}]]+").expect("constant pattern parses")
});

/// One token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// The end of the input.
    End,
    /// A field, or a value without quotes.
    Word(&'a str),
    /// Decoded text and the character that quoted it.
    Quoted(char, Vec<u8>),
    /// A run of operator characters, known or not.
    Operator(&'a str),
    /// A comma or a dot.
    Separator(char),
    /// A character that starts no token.
    Stray(char),
    /// Broken text, and what is wrong with it.
    Illegal(&'static str),
}

/// Reads tokens from the front.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    input: &'a str,
    at: usize,
    expect_value: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self {
            input,
            at: 0,
            expect_value: false,
        }
    }

    /// The next character, white space included.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Where the next character is, in bytes.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next token and where it starts. White space before it is passed over.
    pub(super) fn next(&mut self) -> (usize, Token<'a>) {
        self.skip(char::is_whitespace);
        let start = self.at;
        (start, self.token(start))
    }

    fn token(&mut self, start: usize) -> Token<'a> {
        let Some(first) = self.bump() else {
            return Token::End;
        };
        match first {
            '\0' => Token::Illegal("a NUL character"),
            char::REPLACEMENT_CHARACTER => Token::Illegal("broken UTF-8"),
            '"' | '/' | '|' => match self.quoted(first) {
                Ok(text) => Token::Quoted(first, text),
                Err(wrong) => Token::Illegal(wrong),
            },
            ',' | '.' => {
                self.expect_value = false;
                Token::Separator(first)
            }
            '=' | '!' | '~' => {
                self.skip(is_operator);
                self.expect_value = true;
                Token::Operator(&self.input[start..self.at])
            }
            _ => self.word(start, first),
        }
    }

    /// A value may start with any character that means nothing else.
    fn word(&mut self, start: usize, first: char) -> Token<'a> {
        if self.expect_value {
            self.expect_value = false;
            self.at += VALUE.find(self.rest()).map_or(0, |found| found.len());
        } else if is_field(first) {
            self.skip(is_field);
        } else {
            return Token::Stray(first);
        }
        Token::Word(&self.input[start..self.at])
    }

    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::new();
        loop {
            match self.bump() {
                None | Some('\0' | '\n' | char::REPLACEMENT_CHARACTER) => {
                    return Err("quoted text without its end");
                }
                Some('\\') => self.escape(quote, &mut text)?,
                Some(end) if end == quote => return Ok(text),
                Some(plain) => push(&mut text, plain),
            }
        }
    }

    fn escape(&mut self, quote: char, text: &mut Vec<u8>) -> Result<(), &'static str> {
        let Some(escape) = self.bump() else {
            return Err("quoted text without its end");
        };
        match escape {
            'a' => text.push(0x07),
            'b' => text.push(0x08),
            'f' => text.push(0x0c),
            'n' => text.push(b'\n'),
            'r' => text.push(b'\r'),
            't' => text.push(b'\t'),
            'v' => text.push(0x0b),
            '\\' => text.push(b'\\'),
            '0'..='7' => {
                self.at -= 1;
                let value = self.digits(8, 3)?;
                text.push(u8::try_from(value).map_err(|_| "an octal escape above \\377")?);
            }
            'x' => text.push(self.digits(16, 2)?.to_le_bytes()[0]),
            'u' => push_code(text, self.digits(16, 4)?)?,
            'U' => push_code(text, self.digits(16, 8)?)?,
            _ if escape == quote => push(text, quote),
            _ => return Err("an unknown escape"),
        }
        Ok(())
    }

    fn digits(&mut self, radix: u32, count: usize) -> Result<u32, &'static str> {
        let mut value = 0_u32;
        for _ in 0..count {
            let digit = self.peek().and_then(|next| next.to_digit(radix));
            value = value * radix + digit.ok_or("an escape with too few digits")?;
            self.at += 1;
        }
        Ok(value)
    }

    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip(&mut self, wanted: fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(wanted).len();
    }
}

fn is_operator(char: char) -> bool {
    matches!(char, '=' | '!' | '~')
}

fn is_field(char: char) -> bool {
    char == '_' || char.is_ascii_alphanumeric()
}

fn push(text: &mut Vec<u8>, char: char) {
    text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Upstream holds a code point in a signed 32-bit number: one with the top bit set passes its
/// range check and leaves its lowest byte. Half a surrogate pair becomes U+FFFD.
fn push_code(text: &mut Vec<u8>, code: u32) -> Result<(), &'static str> {
    match char::from_u32(code) {
        Some(char) => push(text, char),
        None if code >= 1 << 31 => text.push(code.to_le_bytes()[0]),
        None if code > u32::from(char::MAX) => return Err("an escape above \\U0010ffff"),
        None => push(text, char::REPLACEMENT_CHARACTER),
    }
    Ok(())
}
