//! Values of keys: booleans, sizes, numbers.

use super::error::{Fault, bad_value};
use super::model::TmpfsSize;
use super::{Context, Dialect};

/// A limit that is none.
pub(super) const UNLIMITED: &str = "unlimited";

/// Binary multipliers, by their letter.
const UNITS: [(char, u32); 6] = [
    ('k', 10),
    ('m', 20),
    ('g', 30),
    ('t', 40),
    ('p', 50),
    ('e', 60),
];

/// Value of a boolean key: none, or one of four words. Older Dockers took more words.
pub(super) fn boolean(key: &str, value: Option<&str>) -> Result<bool, Fault> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => Err(bad_value(key, other, "true, 1, false or 0")),
    }
}

/// Permissions, in octal.
pub(super) fn mode(key: &str, value: &str, context: Context<'_>) -> Result<u32, Fault> {
    let octal = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = u32::from_str_radix(text, 8);
        number.ok().filter(|_| digits)
    };
    let allowed = "an octal number, 0 to 7777";
    match octal(value) {
        Some(mode) if mode <= 0o7777 => Ok(mode),
        // The kernel looks at the last twelve bits.
        Some(mode) if context.dialect == Dialect::Docker => Ok(mode & 0o7777),
        _ => Err(bad_value(key, value, allowed)),
    }
}

/// A user or group. The kernel also takes octal and hexadecimal, and so does Docker's `--tmpfs`.
pub(super) fn id(key: &str, value: &str, context: Context<'_>) -> Result<u32, Fault> {
    let number = match context.dialect {
        Dialect::Strict => decimal(value),
        Dialect::Docker => {
            any_base(value).and_then(|(number, rest)| rest.is_empty().then_some(number))
        }
    };
    let id = number.and_then(|number| u32::try_from(number).ok());
    // The highest number means "no user" to the kernel.
    id.filter(|id| *id != u32::MAX)
        .ok_or_else(|| bad_value(key, value, "a number from 0 to 4294967294"))
}

/// A number of files or blocks, where the kernel takes a letter for a binary multiplier.
pub(super) fn count(key: &str, value: &str, context: Context<'_>) -> Result<u64, Fault> {
    let (number, rest) = kernel_number(value, context);
    number
        .filter(|_| rest.is_empty())
        .ok_or_else(|| bad_value(key, value, "a number, with or without a letter such as k"))
}

/// A limit as the kernel takes it: a number with or without a letter, or hundredths.
pub(super) fn kernel_size(
    key: &str,
    value: &str,
    context: Context<'_>,
) -> Result<TmpfsSize, Fault> {
    if context.is_strict() {
        return strict_size(key, value);
    }
    match kernel_number(value, context) {
        (Some(bytes), "") => Ok(TmpfsSize::Bytes(bytes)),
        // To the kernel no memory at all is no limit.
        (Some(0), "%") => Ok(TmpfsSize::Bytes(0)),
        (Some(percent), "%") => Ok(TmpfsSize::Percent(percent)),
        _ => Err(bad_value(key, value, "a size such as 64m or 10%")),
    }
}

/// A number and what follows it. In our dialect a leading zero is none: octal surprises.
fn kernel_number<'a>(value: &'a str, context: Context<'_>) -> (Option<u64>, &'a str) {
    let plain = |text: &'a str| {
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
        Some((decimal(digits)?, rest))
    };
    let split = match context.dialect {
        Dialect::Strict => plain(value),
        Dialect::Docker => any_base(value),
    };
    let Some((number, rest)) = split else {
        return (None, value);
    };
    match unit(rest) {
        Some((bits, behind)) => (number.checked_mul(1 << bits), behind),
        None => (Some(number), rest),
    }
}

/// The multiplier at the start, as a power of two, and what follows it.
fn unit(text: &str) -> Option<(u32, &str)> {
    let first = text.chars().next()?;
    let (_, bits) = UNITS
        .into_iter()
        .find(|(letter, _)| first.eq_ignore_ascii_case(letter))?;
    Some((bits, &text[first.len_utf8()..]))
}

/// Digits without a leading zero.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    (digits && !octal).then(|| text.parse().ok())?
}

/// A number in the base its prefix says, and what follows it.
fn any_base(text: &str) -> Option<(u64, &str)> {
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match lower.as_deref() {
        Some("0x") => (16, &text[2..]),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    };
    let end = digits.find(|c: char| !c.is_digit(base));
    let (number, rest) = digits.split_at(end.unwrap_or(digits.len()));
    Some((u64::from_str_radix(number, base).ok()?, rest))
}

/// A limit for `tmpfs-size`.
pub(super) fn long_size(
    key: &str,
    value: &str,
    context: Context<'_>,
) -> Result<Option<TmpfsSize>, Fault> {
    if context.is_strict() {
        return strict_size(key, value).map(Some);
    }
    match docker_size(value) {
        Some(0) => Ok(None),
        Some(bytes) => Ok(Some(TmpfsSize::Bytes(bytes))),
        None => Err(bad_value(key, value, "a size such as 64m or 1.5g")),
    }
}

/// Ours, for both flags: a decimal number with a binary multiplier, spelled `m`, `mb` or `mib`,
/// hundredths of the memory, or a word for what Docker writes as 0 in one flag and not in another.
fn strict_size(key: &str, value: &str) -> Result<TmpfsSize, Fault> {
    let number = |text: &str| decimal(text).filter(|number| *number > 0);
    let size = match value.strip_suffix('%') {
        None if value == UNLIMITED => Some(TmpfsSize::Bytes(0)),
        Some(percent) => number(percent).map(TmpfsSize::Percent),
        None => strict_bytes(value).map(TmpfsSize::Bytes),
    };
    size.ok_or_else(|| {
        let allowed = "a size above 0 such as 67108864, 64m, 1.5g or 10%";
        let hint = "leave it out for half of the memory, write unlimited for no limit";
        bad_value(key, value, allowed).hint(hint)
    })
}

/// A size above 0 as our dialect has it: decimal, with a binary multiplier or none.
pub(super) fn strict_bytes(value: &str) -> Option<u64> {
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = value.split_at(end.unwrap_or(value.len()));
    let bits = suffix_bits(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // More digits say nothing about bytes, and would not fit.
    if fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let parts: u128 = fraction.parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let bytes = (u128::from(decimal(whole)?) << bits) + (parts << bits) / scale;
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// `""`, `b`, `k`, `kb`, `kib` and so on up to `p`, in any case.
fn suffix_bits(suffix: &str) -> Option<u32> {
    if suffix.is_empty() || suffix.eq_ignore_ascii_case("b") {
        return Some(0);
    }
    let (bits, rest) = unit(suffix).filter(|(bits, _)| *bits <= 50)?;
    let known =
        rest.is_empty() || rest.eq_ignore_ascii_case("b") || rest.eq_ignore_ascii_case("ib");
    known.then_some(bits)
}

/// Docker's: a floating-point number, perhaps a space, and a suffix. What does not fit becomes
/// negative there and fails when the container starts.
fn docker_size(value: &str) -> Option<u64> {
    let last = value.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (number, suffix) = value.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let named = number
        .bytes()
        .any(|byte| matches!(byte, b'n' | b'N' | b'i' | b'I'));
    let number: f64 = number.parse().ok().filter(|_| !named)?;
    let bytes = number
        * f64::from(1_u32 << (suffix_bits(suffix)? % 30))
        * f64::from(1_u32 << (suffix_bits(suffix)? / 30 * 30));
    whole(bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and a fraction of a byte is to be cut off"
)]
fn whole(number: f64) -> Option<u64> {
    const TOO_MUCH: f64 = 9_223_372_036_854_775_808.0;
    (0.0..TOO_MUCH).contains(&number).then_some(number as u64)
}
