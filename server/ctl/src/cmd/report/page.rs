//! The page. Text of clients is escaped by the template; nothing is loaded from elsewhere.

use std::fmt::Display;

use layerd_proto::layerd::v1::InfoResponse;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use prost_types::Timestamp;

use super::account::{Account, Forest, Group, Share, sum};
use super::map::{ROWS, map, short};
use crate::human::{age, size};
use crate::text::{escape, escape_message};
use crate::volume::Volume;

const STYLE: &str = include_str!("style.css");
/// Most images that are named beside a snapshot.
const IMAGES: usize = 3;
/// Most rows of the tables of layers and of events: `layerctl` lists the rest.
const LAYERS: usize = 2000;
const EVENTS: usize = 200;

pub(super) fn page(account: &Account) -> String {
    let shares = account.shares();
    let at = moment(account.now);
    let content = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "layerd: " (escape(&account.info.root)) ", " (at) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(account, &at))
                main {
                    (alarms(&account.info))
                    (disk(account, &shares))
                    (map(account, &shares))
                    (holders(account, &shares))
                    (layers(account))
                    (volumes(account))
                    (trash(account))
                    (events(account))
                }
            }
        }
    };
    content.into_string()
}

fn header(account: &Account, at: &str) -> Markup {
    let info = &account.info;
    let facts = [
        ("Root", info.root.clone()),
        ("Driver", info.driver.clone()),
        ("File system", info.backing_filesystem.clone()),
        ("Durability", info.durability.clone()),
        ("Kernel", info.kernel.clone()),
        (
            "Containers and views",
            (info.active + info.views).to_string(),
        ),
        ("Layers", info.committed.to_string()),
        ("Volumes", account.volumes.len().to_string()),
    ];
    html! {
        header {
            h1 { "layerd " (info.version) }
            p.dim { "As of " time datetime=(at) { (at) } ", up for " (age(account.now - seconds(info.uptime_seconds), account.now)) }
            nav aria-label="Sections" {
                @for (id, title) in [("map", "Map"), ("holders", "Holders"), ("layers", "Layers"), ("volumes", "Volumes"), ("trash", "Trash"), ("events", "Events")] {
                    a href={ "#" (id) } { (title) }
                }
            }
            dl.facts {
                @for (term, value) in &facts {
                    div { dt { (term) } dd { (escape(value)) } }
                }
            }
        }
    }
}

fn alarms(info: &InfoResponse) -> Markup {
    html! {
        @if info.alarms.is_empty() {
            p.well { "No alarms." }
        } @else {
            section.alarms aria-labelledby="alarms" {
                h2 id="alarms" { "Alarms" }
                ul { @for alarm in &info.alarms { li { (escape_message(alarm)) } } }
            }
        }
    }
}

/// The disk as one bar.
fn disk(account: &Account, shares: &[Share]) -> Markup {
    let info = &account.info;
    let mut parts: Vec<(&str, &str, u64)> = Group::ALL
        .into_iter()
        .map(|group| (group.class(), group.title(), sum(shares, group)))
        .collect();
    let known: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
    let used = info.disk_bytes.saturating_sub(info.disk_free_bytes);
    parts.push(("other", "Everything else", used.saturating_sub(known)));
    parts.push(("free", "Free", info.disk_free_bytes));
    let all: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
    html! {
        section aria-labelledby="disk" {
            h2 id="disk" { "Disk: " (size(info.disk_free_bytes)) " free of " (size(info.disk_bytes)) }
            div.bar role="img" aria-label="Shares of the disk; the list below has the figures" {
                @for (class, title, bytes) in &parts {
                    @if *bytes > 0 {
                        div class=(class) title={ (title) ": " (size(*bytes)) } style={ "flex-grow:" (share(*bytes, all)) } {}
                    }
                }
            }
            ul.legend {
                @for (class, title, bytes) in &parts {
                    li { span class=(class) {} (title) ": " (size(*bytes)) }
                }
            }
        }
    }
}

fn holders(account: &Account, shares: &[Share]) -> Markup {
    let total: u64 = shares.iter().map(|share| share.bytes).sum();
    html! {
        section aria-labelledby="holders" {
            h2 id="holders" { "Holders" }
            @if shares.is_empty() {
                p.dim { "None." }
            } @else {
                div.scroll { table {
                    thead { tr { th { "What" } th.number { "Bytes" } th.number { "Share" } th { "Name" } th { "Image" } } }
                    tbody {
                        @for (at, one) in shares.iter().take(ROWS).enumerate() {
                            tr id={ "h" (at) } {
                                td { (one.group.title()) }
                                td.number { (size(one.bytes)) }
                                td.number { (percent(one.bytes, total)) }
                                td.name { (short(&one.name)) }
                                td.name { (images(account, &one.name)) }
                            }
                        }
                    }
                } }
                (more(shares.len(), ROWS, "layerctl du -n 0"))
            }
        }
    }
}

fn layers(account: &Account) -> Markup {
    let forest = account.forest();
    let mut left = LAYERS;
    let mut roots = forest.roots.clone();
    let weight = |root: usize| -> u64 {
        let above = forest.above(root).into_iter();
        above.map(|(index, _)| forest.bytes(index)).sum()
    };
    roots.sort_by_cached_key(|root| std::cmp::Reverse(weight(*root)));
    let trees: Vec<Markup> = roots
        .iter()
        .map_while(|root| {
            let mut rows = forest.above(*root);
            rows.truncate(left);
            left -= rows.len();
            (!rows.is_empty()).then(|| tree(account, &forest, &rows, weight(*root)))
        })
        .collect();
    html! {
        section aria-labelledby="layers" {
            h2 id="layers" { "Layers, with the images and containers on them" }
            @if trees.is_empty() { p.dim { "None." } }
            @for tree in &trees { (tree) }
            (more(account.snapshots.len(), LAYERS, "layerctl snapshot tree"))
        }
    }
}

/// A lowest layer and what stands on it.
fn tree(account: &Account, forest: &Forest<'_>, rows: &[(usize, usize)], bytes: u64) -> Markup {
    let root = &forest.all[rows[0].0].0;
    let label = match account.images.of(&root.name).is_empty() {
        true => short(&root.name),
        false => images(account, &root.name),
    };
    html! {
        details {
            summary { (label) " " span.dim { (rows.len()) " layers, " (size(bytes)) } }
            table.tree {
                thead { tr { th { "Name" } th { "Kind" } th.number { "Bytes" } th.number { "Age" } th { "Image" } } }
                tbody {
                    @for (index, height) in rows {
                        @let snapshot = &forest.all[*index].0;
                        tr {
                            td style={ "--height:" (height.min(&24)) } title=(escape(&snapshot.name)) { (short(&snapshot.name)) }
                            td { (snapshot.kind.name()) }
                            td.number { (size(forest.bytes(*index))) }
                            td.number { (age(snapshot.created.0, account.now)) }
                            td.name { @if forest.children(*index).is_empty() { (images(account, &snapshot.name)) } }
                        }
                    }
                }
            }
        }
    }
}

fn volumes(account: &Account) -> Markup {
    html! {
        section aria-labelledby="volumes" {
            h2 id="volumes" { "Volumes" }
            @if account.volumes.is_empty() {
                p.dim { "None." }
            } @else {
                div.scroll { table {
                    thead { tr { th { "Name" } th.number { "Bytes" } th { "Limit" } th { "Holders" } th.number { "Age" } th { "Filled from" } } }
                    tbody {
                        @for one in &account.volumes {
                            tr {
                                td.name { (escape(&one.name)) }
                                td.number { (known(one.bytes)) }
                                td { (limit(one)) }
                                td.name { (escape(&account.holders(&one.name).join(", "))) }
                                td.number { (age(one.created, account.now)) }
                                td.name { (escape(&one.filled_from)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn trash(account: &Account) -> Markup {
    let settings = account.info.health.clone().unwrap_or_default().settings;
    let keep = |key: &str| settings.get(key).and_then(|text| text.parse::<i64>().ok());
    let goes = |removed: i64, key: &str| {
        let at = keep(key).map(|keep| removed.saturating_add(keep));
        at.map_or_else(|| "-".to_owned(), moment)
    };
    html! {
        section aria-labelledby="trash" {
            h2 id="trash" { "Trash" }
            @if account.trash.is_empty() && account.deleted.is_empty() {
                p.dim { "Empty." }
            } @else {
                p.dim { code { "layerctl trash restore" } " and " code { "layerctl volume undelete" } " take back what has not gone." }
                div.scroll { table {
                    thead { tr { th { "Name" } th { "Kind" } th.number { "Bytes" } th { "Removed" } th { "Goes after" } } }
                    tbody {
                        @for one in &account.trash {
                            @let removed = one.removed_at.unwrap_or_default().seconds;
                            tr {
                                td.name { (escape(&one.key)) }
                                td { (one.kind) }
                                td.number { (known(one.bytes)) }
                                td { (moment(removed)) }
                                td { (goes(removed, "trash.keep_secs")) }
                            }
                        }
                        @for one in &account.deleted {
                            tr {
                                td.name { (escape(&one.name)) }
                                td { "volume" }
                                td.number { (known(one.bytes)) }
                                td { (moment(one.deleted)) }
                                td { (goes(one.deleted, "trash.keep_volumes_secs")) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn events(account: &Account) -> Markup {
    let all = &account.events;
    html! {
        section aria-labelledby="events" {
            h2 id="events" { "Events of the last day" }
            @if all.is_empty() {
                p.dim { "None that the daemon has kept." }
            } @else {
                div.scroll { table {
                    thead { tr { th { "Time" } th { "Topic" } th { "What" } th { "Subject" } } }
                    tbody {
                        @for one in all.iter().rev().take(EVENTS) {
                            tr {
                                td { (moment(one.at.unwrap_or_default().seconds)) }
                                td { (one.topic) }
                                td { (one.what) }
                                td.name { (escape(&one.subject)) }
                            }
                        }
                    }
                } }
                (more(all.len(), EVENTS, "layerctl events --since 24h"))
            }
        }
    }
}

fn more(all: usize, shown: usize, command: &str) -> Markup {
    html! {
        @if all > shown {
            p.dim { (all - shown) " more: " code { (command) } }
        }
    }
}

/// The first images of a snapshot, and the number of the others.
fn images(account: &Account, name: &str) -> String {
    let all = account.images.of(name);
    let (shown, rest) = all.split_at(all.len().min(IMAGES));
    let shown = escape(&shown.join(", "));
    match rest.len() {
        0 => shown,
        others => format!("{shown} +{others}"),
    }
}

/// The size that was asked for, and whether it holds.
fn limit(volume: &Volume) -> String {
    let option = |key: &str| volume.options.get(key);
    let bytes = option("size").map(|text| text.parse().map_or_else(|_| text.clone(), size));
    let inodes = option("inodes").map(|text| format!("{text} inodes"));
    let is_kept = volume.limit != "not enforced";
    let unkept = (!is_kept).then(|| volume.limit.clone());
    let parts: Vec<String> = bytes.into_iter().chain(inodes).chain(unkept).collect();
    escape(&parts.join(", "))
}

fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), size)
}

fn moment(seconds: i64) -> String {
    let nanos = 0;
    Timestamp { seconds, nanos }.to_string()
}

fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a pixel is far larger than what is lost"
)]
fn share(bytes: u64, all: u64) -> impl Display {
    format!("{:.4}", bytes as f64 / all.max(1) as f64)
}

fn percent(bytes: u64, all: u64) -> String {
    let share = u128::from(bytes) * 1000 / u128::from(all.max(1));
    format!("{}.{} %", share / 10, share % 10)
}

#[cfg(test)]
mod tests {
    use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
    use layerd_proto::layerd::v1::Removed;

    use super::*;
    use crate::snapshot::Usage;

    /// Text that ends what it stands in.
    const EVIL: &str = "</td><script>alert(1)</script>\u{202e}\"'&";

    fn account() -> Account {
        let info = Info {
            name: EVIL.to_owned(),
            kind: Kind::Active.into(),
            ..Info::default()
        };
        let mut account = Account {
            snapshots: vec![(
                info.into(),
                Some(Usage {
                    bytes: 5,
                    inodes: 1,
                }),
            )],
            trash: vec![Removed {
                key: EVIL.to_owned(),
                kind: "active".to_owned(),
                bytes: Some(1),
                ..Removed::default()
            }],
            ..Account::default()
        };
        account.info.alarms = vec![EVIL.to_owned()];
        account.info.root = EVIL.to_owned();
        account
    }

    #[test]
    fn text_of_clients_is_text() {
        let page = page(&account());
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains('\u{202e}'), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 4, "{page}");
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = page(&account());
        for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "//"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn an_empty_node_has_a_page() {
        let page = page(&Account::default());
        assert!(page.contains("Nothing holds any."), "{page}");
        assert!(page.contains("No alarms."), "{page}");
        assert!(!page.contains("NaN"), "{page}");
    }
}
