//! Lays snapshots out as trees that stay readable at any size.
//!
//! A child that continues the largest part of its tree stands below its parent in the same
//! column; only the others are indented. Every step to the right at least halves what is left,
//! so a chain of 500 layers needs no indentation at all and a million snapshots need at most
//! twenty steps. Nothing here recurses.

use std::collections::HashMap;

/// A snapshot, as far as the layout needs it.
pub(crate) trait Member {
    fn name(&self) -> &str;
    fn parent(&self) -> &str;
    /// Order among children of one parent.
    fn age_order(&self) -> (i64, i32);
}

/// One line of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// A snapshot, by its position in the input.
    One {
        index: usize,
        position: Position,
        children: usize,
    },
    /// A stretch of a chain that was folded: snapshots by their position in the input.
    Folded { indices: Vec<usize>, column: usize },
}

/// Where a snapshot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Steps to the right.
    pub(crate) column: usize,
    /// Set if the column starts here. Otherwise the parent is the nearest one above in it.
    pub(crate) start: bool,
    /// Ancestors among the input.
    pub(crate) depth: usize,
}

/// A stretch of fewer layers is not worth folding.
const FOLD_FROM: usize = 3;

/// Every input stands on one line. A snapshot whose parent is not in the input starts a tree.
pub(crate) fn layout<M: Member>(members: &[M]) -> Vec<Line> {
    let children = children_of(members);
    let roots = roots_of(members);
    let order = breadth_first(&roots, &children);
    let weights = weights(members.len(), &order, &children);
    let mut lines = Vec::with_capacity(members.len());
    let mut waiting: Vec<(usize, Position)> =
        roots.iter().rev().map(|&root| (root, ROOT)).collect();
    while let Some((index, position)) = waiting.pop() {
        lines.push(Line::One {
            index,
            position,
            children: children[index].len(),
        });
        push_children(index, position, &children, &weights, &mut waiting);
    }
    lines
}

const ROOT: Position = Position {
    column: 0,
    start: true,
    depth: 0,
};

/// The heaviest child goes on in the column, after all others.
fn push_children(
    index: usize,
    position: Position,
    children: &[Vec<usize>],
    weights: &[usize],
    waiting: &mut Vec<(usize, Position)>,
) {
    let Some(&heavy) = children[index].iter().max_by_key(|&&child| weights[child]) else {
        return;
    };
    let depth = position.depth + 1;
    waiting.push((
        heavy,
        Position {
            column: position.column,
            start: false,
            depth,
        },
    ));
    let aside = Position {
        column: position.column + 1,
        start: true,
        depth,
    };
    let others = children[index].iter().rev();
    waiting.extend(
        others
            .filter(|&&child| child != heavy)
            .map(|&child| (child, aside)),
    );
}

/// Replaces stretches in which every snapshot has exactly one child, the next line. What a leaf
/// stands on is kept: it is the image of that container.
pub(crate) fn fold(lines: Vec<Line>) -> Vec<Line> {
    let mut folded = Vec::with_capacity(lines.len());
    let mut stretch: Vec<(usize, Position)> = Vec::new();
    for line in lines {
        match line {
            Line::One {
                index,
                position,
                children: 1,
            } if !position.start => stretch.push((index, position)),
            other => {
                close(&mut stretch, is_leaf(&other), &mut folded);
                folded.push(other);
            }
        }
    }
    folded
}

fn is_leaf(line: &Line) -> bool {
    matches!(line, Line::One { children: 0, .. })
}

/// Ends a stretch, which a line that is no link always does: the last snapshot has no child.
fn close(stretch: &mut Vec<(usize, Position)>, keep_last: bool, folded: &mut Vec<Line>) {
    let kept = if keep_last { stretch.pop() } else { None };
    match stretch.first() {
        Some((_, position)) if stretch.len() >= FOLD_FROM => folded.push(Line::Folded {
            column: position.column,
            indices: stretch.iter().map(|&(index, _)| index).collect(),
        }),
        _ => folded.extend(stretch.iter().copied().map(link)),
    }
    stretch.clear();
    folded.extend(kept.map(link));
}

fn link((index, position): (usize, Position)) -> Line {
    Line::One {
        index,
        position,
        children: 1,
    }
}

fn children_of<M: Member>(members: &[M]) -> Vec<Vec<usize>> {
    let places = places(members);
    let mut children = vec![Vec::new(); members.len()];
    for (index, member) in members.iter().enumerate() {
        if let Some(&parent) = places.get(member.parent()) {
            let siblings: &mut Vec<usize> = &mut children[parent];
            siblings.push(index);
        }
    }
    for siblings in &mut children {
        sort(members, siblings);
    }
    children
}

fn roots_of<M: Member>(members: &[M]) -> Vec<usize> {
    let places = places(members);
    let mut roots: Vec<usize> = (0..members.len())
        .filter(|&index| !places.contains_key(members[index].parent()))
        .collect();
    sort(members, &mut roots);
    roots
}

fn places<M: Member>(members: &[M]) -> HashMap<&str, usize> {
    members
        .iter()
        .enumerate()
        .map(|(index, member)| (member.name(), index))
        .collect()
}

fn sort<M: Member>(members: &[M], indices: &mut [usize]) {
    indices.sort_by_key(|&index| (members[index].age_order(), members[index].name()));
}

fn breadth_first(roots: &[usize], children: &[Vec<usize>]) -> Vec<usize> {
    let mut order = roots.to_vec();
    let mut next = 0;
    while let Some(&index) = order.get(next) {
        order.extend(&children[index]);
        next += 1;
    }
    order
}

/// Snapshots in each one's tree, itself included.
fn weights(count: usize, order: &[usize], children: &[Vec<usize>]) -> Vec<usize> {
    let mut weights = vec![1; count];
    for &index in order.iter().rev() {
        weights[index] += children[index]
            .iter()
            .map(|&child| weights[child])
            .sum::<usize>();
    }
    weights
}

/// Prefix of a snapshot's name.
pub(crate) fn prefix(position: Position) -> String {
    match (position.column, position.start) {
        (0, true) => "● ".to_owned(),
        (column, true) => format!("{}├─ ● ", "│  ".repeat(column - 1)),
        (column, false) => format!("{}↓ ", "│  ".repeat(column)),
    }
}

/// Prefix of the note on a folded stretch.
pub(crate) fn folded_prefix(column: usize) -> String {
    format!("{}⋮ ", "│  ".repeat(column))
}

#[cfg(test)]
mod tests;
