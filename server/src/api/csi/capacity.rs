//! Sizes that are asked for. They are recorded and shown; nothing holds a volume to one yet.

use layerd_engine::size_asked;
use layerd_mounts::limit::Limit;
use layerd_proto::csi::v1::CapacityRange;
use layerd_store::Volume;
use tonic::Status;

use super::bad;

/// Bounds of a size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capacity {
    required: u64,
    limit: Option<u64>,
}

impl Capacity {
    /// Reads a range; none at all, and 0, are no bound.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for negative numbers; OUT_OF_RANGE if nothing can be within.
    pub(super) fn parse(range: Option<CapacityRange>) -> Result<Self, Status> {
        let range = range.unwrap_or_default();
        let bytes = |field: &str, number: i64| {
            let field = format!("capacity_range.{field}");
            let rule = || bad(&field, format!("is {number}, and must not be negative"));
            u64::try_from(number).map_err(|_| rule())
        };
        let required = bytes("required_bytes", range.required_bytes)?;
        let limit = bytes("limit_bytes", range.limit_bytes)?;
        if limit > 0 && required > limit {
            return Err(Status::out_of_range(format!(
                "capacity_range: required_bytes is {required}, which is above limit_bytes, {limit}"
            )));
        }
        Ok(Self {
            required,
            limit: (limit > 0).then_some(limit),
        })
    }

    /// True if any bound was given.
    pub(super) fn is_given(self) -> bool {
        self != Self::default()
    }

    /// The size to record: the least that will do, else the largest that is allowed.
    pub(super) fn wanted(self) -> Option<u64> {
        match self.required {
            0 => self.limit,
            required => Some(required),
        }
    }

    /// The size of a new volume: at least what a volume can be held to, which is more than was asked for then.
    ///
    /// # Errors
    /// OUT_OF_RANGE if that is more than is allowed.
    pub(super) fn of_new(self) -> Result<Option<u64>, Status> {
        const MIN: u64 = Limit::MIN_BYTES;
        match self.limit {
            Some(limit) if limit < MIN => Err(Status::out_of_range(format!(
                "capacity_range: limit_bytes is {limit}, and a volume has at least {MIN}"
            ))),
            _ => Ok(self.wanted().map(|wanted| wanted.max(MIN))),
        }
    }

    /// True if a volume of that size will do.
    pub(super) fn fits(self, size: Option<u64>) -> bool {
        match size {
            None => !self.is_given(),
            Some(size) => size >= self.required && self.limit.is_none_or(|limit| size <= limit),
        }
    }

    /// The size of a copy of something that has `source`, and at least that.
    ///
    /// # Errors
    /// OUT_OF_RANGE if it is to be smaller; as [`of_new`](Self::of_new) without a size of the source.
    pub(super) fn of_copy(self, source: Option<u64>) -> Result<Option<u64>, Status> {
        let Some(source) = source else {
            return self.of_new();
        };
        let wanted = match self.required {
            0 => source,
            required => required,
        };
        if wanted < source || self.limit.is_some_and(|limit| limit < source) {
            let asked = self.limit.unwrap_or(wanted).min(wanted.max(self.required));
            return Err(Status::out_of_range(format!(
                "capacity_range: {asked} bytes are asked for, and the source has {source}"
            )));
        }
        Ok(Some(wanted))
    }
}

/// The size of a volume as the standard shows it: 0 if none was asked for.
pub(super) fn shown(volume: &Volume) -> i64 {
    signed(size_asked(volume).unwrap_or(0))
}

/// A number of the standard, which has signed ones.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn range(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
        Some(CapacityRange {
            required_bytes,
            limit_bytes,
        })
    }

    #[test]
    fn sizes_are_the_least_that_will_do() {
        for (given, wanted) in [
            (None, None),
            (range(0, 0), None),
            (range(5, 0), Some(5)),
            (range(5, 9), Some(5)),
            (range(0, 9), Some(9)),
        ] {
            assert_eq!(Capacity::parse(given).unwrap().wanted(), wanted);
        }
        for (given, code) in [
            (range(-1, 0), Code::InvalidArgument),
            (range(0, -1), Code::InvalidArgument),
            (range(9, 5), Code::OutOfRange),
        ] {
            assert_eq!(Capacity::parse(given).unwrap_err().code(), code);
        }
    }

    #[test]
    fn a_new_volume_has_at_least_what_it_can_be_held_to() {
        const MIN: i64 = 4 << 20;
        for (given, size) in [
            (None, Ok(None)),
            (range(1, 0), Ok(Some(4 << 20))),
            (range(1, MIN), Ok(Some(4 << 20))),
            (range(MIN + 1, 0), Ok(Some((4 << 20) + 1))),
            (range(1, MIN - 1), Err(Code::OutOfRange)),
            (range(0, 1), Err(Code::OutOfRange)),
        ] {
            let new = Capacity::parse(given).unwrap().of_new();
            assert_eq!(new.map_err(|status| status.code()), size, "{given:?}");
        }
    }

    #[test]
    fn a_volume_fits_if_its_size_is_within() {
        for (given, size, fits) in [
            (None, Some(7), true),
            (None, None, true),
            (range(5, 0), None, false),
            (range(5, 0), Some(7), true),
            (range(8, 0), Some(7), false),
            (range(5, 6), Some(7), false),
            (range(0, 7), Some(7), true),
        ] {
            let capacity = Capacity::parse(given).unwrap();
            assert_eq!(capacity.fits(size), fits, "{given:?} {size:?}");
        }
    }

    #[test]
    fn a_copy_is_not_smaller_than_its_source() {
        for (given, source, size) in [
            (None, Some(7), Ok(Some(7))),
            (range(9, 0), Some(7), Ok(Some(9))),
            (range(0, 9), Some(7), Ok(Some(7))),
            (range(5, 0), Some(7), Err(Code::OutOfRange)),
            (range(0, 5), Some(7), Err(Code::OutOfRange)),
            (range(5, 0), None, Ok(Some(Limit::MIN_BYTES))),
        ] {
            let copy = Capacity::parse(given).unwrap().of_copy(source);
            assert_eq!(copy.map_err(|status| status.code()), size, "{given:?}");
        }
    }
}
