//! Time of a restart with many attachments, each with a mount.

use std::time::Instant;

use layerd_proto::layerd::v1::AttachSpec;

use super::Client;
use crate::place::{Fs, Place};
use crate::stats::{Spread, millis};
use crate::table::Table;
use crate::target::Target;

/// Mounts in one call.
const AT_ONCE: usize = 250;

/// Measures with `count` attachments and prints.
pub(crate) fn run(count: usize, rounds: usize) {
    let place = Place::new(Fs::Target);
    let dir = place.sub("run");
    let running = Target::Layerd("full").start(&dir);
    let mut client = Client::new(&running.socket());
    let start = Instant::now();
    for first in (0..count).step_by(AT_ONCE) {
        let numbers = first..count.min(first + AT_ONCE);
        client.attach(numbers.map(|number| spec(&place, number)).collect());
    }
    let attach = millis(start.elapsed());
    running.stop();
    let (mut starts, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let running = Target::Layerd("full").start(&dir);
        starts.push(millis(start.elapsed()));
        let start = Instant::now();
        let listed = Client::new(&running.socket()).list();
        lists.push(millis(start.elapsed()));
        let standing = listed.iter().filter(|one| one.state == "attached");
        assert_eq!(standing.count(), count, "the restart lost some");
        running.stop();
    }
    let running = Target::Layerd("full").start(&dir);
    let start = Instant::now();
    assert_eq!(Client::new(&running.socket()).detach(), count);
    let detach = millis(start.elapsed());
    running.stop();
    place.clear(&dir);
    let title = format!(
        "{count} attachments with a mount each on {}, milliseconds:",
        place.name()
    );
    let mut table = Table::new(title, &["what", "in all"]);
    let rows = [
        ("attach, 250 in a call", vec![attach]),
        ("start of layerd until it answers", starts),
        ("list", lists),
        ("detach, in one call", vec![detach]),
    ];
    for (what, figures) in rows {
        table.row([what.to_owned(), Spread::of(figures).to_string()]);
    }
    crate::say(&table);
}

fn spec(place: &Place, number: usize) -> AttachSpec {
    let target = place.sub(&format!("targets/{number}"));
    AttachSpec {
        key: number.to_string(),
        mount: format!("type=volume,src=data,dst=/data/{number},on-missing=create"),
        target_path: target.display().to_string(),
        ..AttachSpec::default()
    }
}
