//! The records of an extended header: `length key=value\n`, the length counting itself.

use rustix::fs::Timespec;

/// One record.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// All records of an extended header, in order; `None` if it is damaged.
pub(crate) fn parse(mut data: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let blank = data.iter().take(10).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&data[..blank])?).ok()?;
        let record = data.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(records)
}

/// Adds a record to an extended header that is being made.
pub(crate) fn push(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3; // a blank, an equals sign, a newline
    let mut length = rest + digits(rest);
    if length != rest + digits(length) {
        length = rest + digits(length);
    }
    data.extend_from_slice(format!("{length} ").as_bytes());
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok()?;
    digits.then(|| text.parse().ok())?
}

const BILLION: i64 = 1_000_000_000;

/// A time in seconds since 1970, with a sign and a fraction.
pub(crate) fn time(text: &[u8]) -> Option<Timespec> {
    let negative = text.first() == Some(&b'-');
    let text = if negative { &text[1..] } else { text };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => timespec(seconds, nanoseconds),
        (true, 0) => timespec(-seconds, 0),
        (true, _) => timespec(-seconds - 1, BILLION - nanoseconds),
    })
}

fn timespec(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

/// The same, written.
pub(crate) fn time_text(time: Timespec) -> String {
    let (sign, seconds, nanoseconds) = match (time.tv_sec < 0, time.tv_nsec) {
        (false, nanoseconds) => ("", time.tv_sec.unsigned_abs(), nanoseconds),
        (true, 0) => ("-", time.tv_sec.unsigned_abs(), 0),
        (true, nanoseconds) => ("-", (time.tv_sec + 1).unsigned_abs(), BILLION - nanoseconds),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

/// The name of an attribute as part of a key: it must not contain an equals sign. As GNU tar does.
pub(crate) fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// The reverse of [`escape`].
pub(crate) fn unescape(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, rest) = match key {
            [b'%', b'2', b'5', rest @ ..] => (b'%', rest),
            [b'%', b'3', b'D' | b'd', rest @ ..] => (b'=', rest),
            _ => (*first, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::{escape, parse, push, time, time_text, unescape};

    #[test]
    fn lengths_count_themselves() {
        for size in [
            0, 1, 80, 89, 90, 91, 92, 93, 94, 95, 979, 985, 990, 9990, 70_000,
        ] {
            let value = vec![b'v'; size];
            let mut data = Vec::new();
            push(&mut data, b"key", &value);
            push(&mut data, b"next", b"a=b\n\0c");
            let records = parse(&data).expect("records");
            let expected: Vec<(&[u8], &[u8])> = vec![(b"key", &value), (b"next", b"a=b\n\0c")];
            assert_eq!(records, expected, "{size}");
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        let table: &[&[u8]] = &[
            b"9 a=b\n",
            b"5 a=b\n",
            b"6 a=b",
            b"6 abc\n",
            b"x a=b\n",
            b"0 \n",
            b"1 ",
            b" 6 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"+6 a=b\n",
            b"2 ",
            b"6",
            b"-1 a=b\n",
        ];
        for data in table {
            assert_eq!(parse(data), None, "{:?}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn times_come_back() {
        for text in [
            "0",
            "1.5",
            "-1.5",
            "-0.000000001",
            "1700000000.123456789",
            "-62135596800",
        ] {
            let read = time(text.as_bytes()).expect("a time");
            assert_eq!(time_text(read), text);
        }
        assert_eq!(
            time(b"-0.25").map(|time| (time.tv_sec, time.tv_nsec)),
            Some((-1, 750_000_000))
        );
        assert_eq!(
            time(b"1.1234567899").map(|time| time.tv_nsec),
            Some(123_456_789)
        );
        for bad in ["", "-", ".", "1e5", "1.x", "--1", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn names_with_equals_signs_come_back() {
        for name in ["user.a", "user.a=b", "user.100%", "user.%3D=%25", "%"] {
            let escaped = escape(name.as_bytes());
            assert!(!escaped.contains(&b'='));
            assert_eq!(unescape(&escaped), name.as_bytes());
        }
    }
}
