//! Limits as labels and options spell them.

use layerd_mounts::limit::Limit;

/// Bytes that `what` can be held to, of which `text` is the spelling.
///
/// # Errors
/// The rule that they break.
pub(crate) fn within(what: &str, text: &str, bytes: u64) -> Result<u64, String> {
    if (Limit::MIN_BYTES..=Limit::MAX_BYTES).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!(
        "{text:?} is {bytes} bytes, and {what} can be held to {} to {}",
        Limit::MIN_BYTES,
        Limit::MAX_BYTES
    ))
}

/// Number of inodes that a limit can have.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn inodes(text: &str) -> Result<u64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=u64::from(u32::MAX)).contains(number))
        .ok_or_else(|| format!("{text:?} is not a number from 1 to {}", u32::MAX))
}
