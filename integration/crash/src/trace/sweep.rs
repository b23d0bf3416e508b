//! One experiment, repeated with the blow at the first call, the second, and so on.

/// Outcome of one experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The plan struck at the chosen call.
    Struck,
    /// The operation finished with fewer calls.
    Finished,
}

/// Repeats `experiment` with n = 1, 2, 3 and so on until it finishes with fewer than n calls for
/// `finishes` different n in a row; background threads make counts vary from run to run, and one
/// early finish proves little. Returns how often the plan struck.
///
/// Each experiment starts from scratch, arms a plan for call n right before the action under test,
/// performs it, restarts the program without a tracer and checks the result.
///
/// # Errors
/// Those of the experiment, at once.
///
/// # Panics
/// If the first experiment finishes without a blow: then nothing was tested.
pub fn sweep<E>(
    finishes: u32,
    mut experiment: impl FnMut(u64) -> Result<Attempt, E>,
) -> Result<u64, E> {
    let mut struck = 0;
    let mut row = 0;
    for number in 1.. {
        match experiment(number)? {
            Attempt::Struck => (struck, row) = (struck + 1, 0),
            Attempt::Finished => row += 1,
        }
        assert!(
            struck > 0,
            "the action under test makes no counted system call"
        );
        if row >= finishes {
            break;
        }
    }
    Ok(struck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_goes_on_until_the_action_gets_through() {
        let mut seen = Vec::new();
        let struck = sweep::<()>(2, |number| {
            seen.push(number);
            Ok(if number <= 3 {
                Attempt::Struck
            } else {
                Attempt::Finished
            })
        });
        assert_eq!((struck, seen), (Ok(3), vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn sweep_ends_at_the_first_error() {
        assert_eq!(sweep(1, |_| Err::<Attempt, _>("lost")), Err("lost"));
    }
}
