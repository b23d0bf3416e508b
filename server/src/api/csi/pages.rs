//! Lists in pages. A token is the number of the last volume on the page before, so that what is created
//! or deleted meanwhile neither repeats nor hides another.

use layerd_engine::VolumeEntry;
use tonic::Status;

use super::bad;

/// The entries of one page, and the token of the next; empty after the last.
pub(super) fn page(
    mut all: Vec<VolumeEntry>,
    max_entries: i32,
    starting_token: &str,
) -> Result<(Vec<VolumeEntry>, String), Status> {
    let most = usize::try_from(max_entries).map_err(|_| {
        let rule = format!("is {max_entries}, and must not be negative");
        bad("max_entries", rule)
    })?;
    if !starting_token.is_empty() {
        let after = number(starting_token).ok_or_else(|| {
            let shown: String = starting_token.chars().take(64).collect();
            Status::aborted(format!(
                "starting_token: {shown:?} is not a token that was handed out; begin anew without one"
            ))
        })?;
        all.retain(|entry| entry.volume.id.0 > after);
    }
    let is_cut = most > 0 && all.len() > most;
    if is_cut {
        all.truncate(most);
    }
    let last = all.last().filter(|_| is_cut);
    let token = last.map_or_else(String::new, |entry| entry.volume.id.0.to_string());
    Ok((all, token))
}

/// The number of a token, in the one spelling that is handed out.
fn number(token: &str) -> Option<u64> {
    let number: u64 = token.parse().ok()?;
    (number > 0 && number.to_string() == token).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn tokens_have_one_spelling() {
        for (token, wanted) in [("7", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(number(token), Some(wanted));
        }
        for token in [
            "",
            "0",
            "07",
            "+7",
            "-7",
            " 7",
            "7 ",
            "18446744073709551616",
        ] {
            assert_eq!(number(token), None, "{token:?}");
        }
    }
}
