use super::{Line, Member, fold, folded_prefix, layout, prefix};

struct Snap(String, String, i64);

impl Member for Snap {
    fn name(&self) -> &str {
        &self.0
    }
    fn parent(&self) -> &str {
        &self.1
    }
    fn age_order(&self) -> (i64, i32) {
        (self.2, 0)
    }
}

fn snaps(pairs: &[(&str, &str)]) -> Vec<Snap> {
    let order = 0_i64..;
    let pairs = pairs.iter().zip(order);
    pairs
        .map(|((name, parent), created)| Snap((*name).to_owned(), (*parent).to_owned(), created))
        .collect()
}

fn chain(length: usize) -> Vec<Snap> {
    let order = 0_i64..;
    (0..length)
        .zip(order)
        .map(|(layer, created)| {
            let parent = layer.checked_sub(1).map(|below| below.to_string());
            Snap(layer.to_string(), parent.unwrap_or_default(), created)
        })
        .collect()
}

fn draw(members: &[Snap], lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| match line {
            Line::One {
                index, position, ..
            } => format!("{}{}", prefix(*position), members[*index].0),
            Line::Folded { indices, column } => {
                format!("{}{} more", folded_prefix(*column), indices.len())
            }
        })
        .collect()
}

#[test]
fn the_largest_part_goes_on_below_and_the_rest_aside() {
    let members = snaps(&[
        ("base", ""),
        ("app", "base"),
        ("top", "app"),
        ("c1", "base"),
        ("c2", "top"),
        ("c3", "top"),
        ("other", ""),
        ("x", "base"),
        ("y", "x"),
    ]);
    let drawn = draw(&members, &layout(&members));
    let wanted = [
        "● base",
        "├─ ● c1",
        "├─ ● x",
        "│  ↓ y",
        "↓ app",
        "↓ top",
        "├─ ● c2",
        "↓ c3",
        "● other",
    ];
    assert_eq!(drawn, wanted);
}

#[test]
fn a_chain_of_thousands_needs_no_indentation_and_no_stack() {
    let members = chain(20_000);
    let lines = layout(&members);
    assert_eq!(lines.len(), members.len());
    assert!(
        lines
            .iter()
            .all(|line| matches!(line, Line::One { position, .. } if position.column == 0))
    );
    assert_eq!(
        draw(&members, &fold(lines)),
        ["● 0", "⋮ 19997 more", "↓ 19998", "↓ 19999"]
    );
}

#[test]
fn columns_grow_with_the_logarithm() {
    // A complete binary tree is the worst case.
    let members: Vec<Snap> = (1..4096_i64)
        .map(|index| Snap(index.to_string(), (index / 2).to_string(), index))
        .collect();
    let widest = layout(&members).iter().fold(0, |widest, line| match line {
        Line::One { position, .. } => widest.max(position.column),
        Line::Folded { .. } => widest,
    });
    assert_eq!(widest, 11);
}

#[test]
fn forks_are_never_folded_away() {
    let mut members = chain(12);
    members.push(Snap("container".to_owned(), "5".to_owned(), 99));
    let drawn = draw(&members, &fold(layout(&members)));
    let wanted = [
        "● 0",
        "⋮ 4 more",
        "↓ 5",
        "├─ ● container",
        "⋮ 4 more",
        "↓ 10",
        "↓ 11",
    ];
    assert_eq!(drawn, wanted);
}

#[test]
fn short_stretches_stay() {
    let members = chain(4);
    assert_eq!(
        draw(&members, &fold(layout(&members))),
        ["● 0", "↓ 1", "↓ 2", "↓ 3"]
    );
}

#[test]
fn a_snapshot_without_its_parent_starts_a_tree() {
    let members = snaps(&[("a", "gone"), ("b", "a")]);
    assert_eq!(draw(&members, &layout(&members)), ["● a", "↓ b"]);
    assert_eq!(layout::<Snap>(&[]), []);
}
