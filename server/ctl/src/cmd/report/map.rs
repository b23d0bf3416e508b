//! The map: a rectangle for each holder, as large as what it holds.

use std::fmt::Display;

use maud::{Markup, html};

use super::account::{Account, Group, Share, sum};
use super::treemap::{Rect, place};
use crate::human::size;
use crate::text::{escape, shorten};

/// The map's size, in units of the picture.
const WHOLE: Rect = Rect {
    x: 0.0,
    y: 0.0,
    width: 1200.0,
    height: 480.0,
};
/// Height of the title of a group in the map.
const TITLE: f64 = 18.0;
/// Width of a letter in the map.
const LETTER: f64 = 7.0;
/// Most rectangles of a group; the rest is one more.
const RECTS: usize = 60;
/// Most rows of the table of holders, to which the map leads: `layerctl` lists the rest.
pub(super) const ROWS: usize = 200;

/// A rectangle of the map: its text, bytes, and the row of its holder.
struct Tile<'a> {
    text: String,
    share: Option<&'a Share>,
    bytes: u64,
}

pub(super) fn map(account: &Account, shares: &[Share]) -> Markup {
    let mut groups: Vec<(Group, u64)> = Group::ALL
        .into_iter()
        .map(|group| (group, sum(shares, group)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    groups.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let weights: Vec<u64> = groups.iter().map(|(_, bytes)| *bytes).collect();
    html! {
        section aria-labelledby="map" {
            h2 id="map" { "Who holds the bytes" }
            @if groups.is_empty() {
                p.dim { "Nothing holds any." }
            } @else {
                p.dim { "Areas are bytes. A container or image has what would go with it; a layer that several need is in none of them." }
                svg viewBox={ "0 0 " (WHOLE.width) " " (WHOLE.height) } role="group" aria-label="Map of the bytes; the table below has the figures" {
                    @for ((group, bytes), rect) in groups.iter().zip(place(&weights, WHOLE)) {
                        (tiles(account, shares, (*group, *bytes), rect))
                    }
                }
            }
        }
    }
}

fn tiles(account: &Account, shares: &[Share], (group, bytes): (Group, u64), rect: Rect) -> Markup {
    let own = shares
        .iter()
        .filter(|one| one.group == group && one.bytes > 0);
    let own: Vec<&Share> = own.collect();
    let (shown, rest) = own.split_at(own.len().min(RECTS));
    let mut tiles: Vec<Tile<'_>> = shown
        .iter()
        .map(|share| Tile {
            text: label(account, share),
            share: Some(share),
            bytes: share.bytes,
        })
        .collect();
    let others: u64 = rest.iter().map(|share| share.bytes).sum();
    if others > 0 {
        tiles.push(Tile {
            text: format!("{} more", rest.len()),
            share: None,
            bytes: others,
        });
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.bytes));
    }
    let title = format!("{}: {}", group.title(), size(bytes));
    let has_title = rect.height > 3.0 * TITLE && width(&title) < rect.width;
    let inner = match has_title {
        true => Rect {
            y: rect.y + TITLE,
            height: rect.height - TITLE,
            ..rect
        },
        false => rect,
    };
    let weights: Vec<u64> = tiles.iter().map(|tile| tile.bytes).collect();
    html! {
        g {
            @if has_title {
                text x=(number(rect.x + 4.0)) y=(number(rect.y + 13.0)) font-weight="600" { (title) }
            }
            @for (tile, rect) in tiles.iter().zip(place(&weights, inner.inset(1.0))) {
                @let row = tile.share.and_then(|share| row(shares, share));
                @match row {
                    Some(row) => a href={ "#h" (row) } { (picture(tile, group, rect)) },
                    None => (picture(tile, group, rect)),
                }
            }
        }
    }
}

fn picture(tile: &Tile<'_>, group: Group, rect: Rect) -> Markup {
    let name = tile
        .share
        .map_or(tile.text.as_str(), |share| share.name.as_str());
    html! {
        rect class=(group.class()) x=(number(rect.x)) y=(number(rect.y)) width=(number(rect.width)) height=(number(rect.height)) {
            title { (group.title()) ": " (escape(name)) ", " (size(tile.bytes)) }
        }
        @if rect.height > 16.0 && rect.width > 6.0 * LETTER {
            text x=(number(rect.x + 4.0)) y=(number(rect.y + 14.0)) aria-hidden="true" { (cut(&tile.text, rect.width - 8.0)) }
        }
        @if rect.height > 32.0 && rect.width > 8.0 * LETTER {
            text x=(number(rect.x + 4.0)) y=(number(rect.y + 28.0)) aria-hidden="true" { (size(tile.bytes)) }
        }
    }
}

/// Name of a holder for people: the image without its registry, the container without its namespace.
fn label(account: &Account, share: &Share) -> String {
    let last = |name: &str| short(name.rsplit('/').next().unwrap_or(name));
    let is_image = matches!(share.group, Group::Images | Group::Shared);
    match account.images.of(&share.name)[..] {
        [one] if is_image => last(one),
        [first, ref rest @ ..] if is_image => format!("{} +{}", last(first), rest.len()),
        _ => last(&share.name),
    }
}

/// Row of a holder in the table, if it has one.
fn row(shares: &[Share], share: &Share) -> Option<usize> {
    let mut rows = shares.iter().take(ROWS);
    rows.position(|one| std::ptr::eq(one, share))
}

/// Name as the map and tables show it: escaped, digests cut.
pub(super) fn short(name: &str) -> String {
    escape(&shorten(name))
}

fn width(text: &str) -> f64 {
    f64::from(u32::try_from(text.chars().count()).unwrap_or(u32::MAX)) * LETTER
}

/// As much of a text as fits.
fn cut(text: &str, width: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the width of a picture"
    )]
    let letters = (width / LETTER).max(0.0) as usize;
    match text.chars().count() > letters {
        true => text
            .chars()
            .take(letters.saturating_sub(1))
            .chain(['…'])
            .collect(),
        false => text.to_owned(),
    }
}

fn number(value: f64) -> impl Display {
    format!("{value:.1}")
}
