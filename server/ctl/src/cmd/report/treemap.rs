//! Rectangles whose areas are shares of a whole.
//!
//! Squarified treemaps (Bruls, Huizing, van Wijk 2000): rows are filled along the shorter side as long as
//! that makes the rectangles less oblong.

/// Position and size in any unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    fn short(&self) -> f64 {
        self.width.min(self.height)
    }

    /// Smaller by this on each side.
    pub(super) fn inset(self, by: f64) -> Self {
        Self {
            x: self.x + by,
            y: self.y + by,
            width: (self.width - 2.0 * by).max(0.0),
            height: (self.height - 2.0 * by).max(0.0),
        }
    }

    /// Cuts a strip of this area off along the shorter side; answers it and the rest.
    fn cut(self, area: f64) -> (Self, Self) {
        if self.width >= self.height {
            let width = (area / self.height).min(self.width);
            let strip = Self { width, ..self };
            let rest = Self {
                x: self.x + width,
                width: self.width - width,
                ..self
            };
            (strip, rest)
        } else {
            let height = (area / self.width).min(self.height);
            let strip = Self { height, ..self };
            let rest = Self {
                y: self.y + height,
                height: self.height - height,
                ..self
            };
            (strip, rest)
        }
    }

    /// Splits a strip among areas, along its longer side.
    fn split(self, areas: &[f64], placed: &mut Vec<Self>) {
        let sum: f64 = areas.iter().sum();
        let mut done = 0.0;
        for area in areas {
            let (from, part) = (done / sum, area / sum);
            placed.push(if self.width >= self.height {
                Self {
                    x: self.x + from * self.width,
                    width: part * self.width,
                    ..self
                }
            } else {
                Self {
                    y: self.y + from * self.height,
                    height: part * self.height,
                    ..self
                }
            });
            done += area;
        }
    }
}

/// Places `weights`, which descend, in `whole`. None of them may be zero.
pub(super) fn place(weights: &[u64], whole: Rect) -> Vec<Rect> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a pixel is far larger than what is lost"
    )]
    let weights: Vec<f64> = weights.iter().map(|weight| *weight as f64).collect();
    let sum: f64 = weights.iter().sum();
    let scale = whole.width * whole.height / sum;
    let areas: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let (mut placed, mut rest, mut begin) = (Vec::with_capacity(areas.len()), whole, 0);
    while begin < areas.len() {
        let side = rest.short();
        let mut end = begin + 1;
        while end < areas.len()
            && worst(&areas[begin..=end], side) <= worst(&areas[begin..end], side)
        {
            end += 1;
        }
        let row = &areas[begin..end];
        let strip;
        (strip, rest) = rest.cut(row.iter().sum());
        strip.split(row, &mut placed);
        begin = end;
    }
    placed
}

/// The largest ratio of two sides in a row along `side`. Areas descend.
fn worst(row: &[f64], side: f64) -> f64 {
    let sum: f64 = row.iter().sum();
    let (first, last) = (row[0], row[row.len() - 1]);
    (side * side * first / (sum * sum)).max(sum * sum / (side * side * last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Rect = Rect {
        x: 0.0,
        y: 0.0,
        width: 600.0,
        height: 400.0,
    };

    #[test]
    fn areas_are_shares_and_nothing_overlaps() {
        let weights = [6, 6, 4, 3, 2, 2, 1];
        let placed = place(&weights, WHOLE);
        for (weight, rect) in weights.iter().zip(&placed) {
            let wanted = 600.0 * 400.0 * f64::from(u32::try_from(*weight).unwrap()) / 24.0;
            assert!((rect.width * rect.height - wanted).abs() < 0.01, "{rect:?}");
            assert!(rect.x > -0.01 && rect.x + rect.width < 600.01, "{rect:?}");
            assert!(rect.y > -0.01 && rect.y + rect.height < 400.01, "{rect:?}");
        }
        for (at, one) in placed.iter().enumerate() {
            for other in &placed[at + 1..] {
                let apart = one.x + one.width <= other.x + 0.01
                    || other.x + other.width <= one.x + 0.01
                    || one.y + one.height <= other.y + 0.01
                    || other.y + other.height <= one.y + 0.01;
                assert!(apart, "{one:?} {other:?}");
            }
        }
        // The example of the paper.
        assert!((placed[0].width - 300.0).abs() < 0.01, "{placed:?}");
    }

    #[test]
    fn any_weights_are_placed() {
        assert_eq!(place(&[], WHOLE), []);
        assert_eq!(place(&[1], WHOLE), [WHOLE]);
        let many: Vec<u64> = (1..1000).rev().map(|one| one * one * one).collect();
        let placed = place(&many, WHOLE);
        assert_eq!(placed.len(), many.len());
        assert!(
            placed
                .iter()
                .all(|one| one.width.is_finite() && one.height.is_finite())
        );
        assert_eq!(place(&[u64::MAX, 1], WHOLE).len(), 2);
    }
}
