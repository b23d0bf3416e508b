//! CRC-32C (Castagnoli) as EROFS makes it: begun with all bits set, and not inverted at the end. Bit
//! by bit, because 3 KiB of each image are summed and no more.

/// Polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Sum of `data`.
pub(super) fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_sum_is_that_of_the_standard_without_its_last_inversion() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), u32::MAX);
    }
}
