//! A picture of the rates as SVG: for each file system a panel for each operation, in it a line for
//! each server over the number of clients. Points are medians; the bars behind them reach from the
//! smallest to the largest round. Each panel has a scale of its own, logarithmic: what is six times as
//! much is the same distance everywhere.

use std::fmt::Write as _;

use crate::stats::{Spread, count};

/// One figure of the picture.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Name of the file system.
    pub(super) place: String,
    pub(super) operation: &'static str,
    pub(super) server: String,
    pub(super) clients: usize,
    /// Operations a second.
    pub(super) rate: Spread,
}

/// Panels beside each other.
const COLUMNS: usize = 5;
/// Sizes, in pixels: of a panel with its margins, and of what is drawn in it.
const PANEL: (f64, f64) = (230.0, 190.0);
const PLOT: (f64, f64) = (165.0, 120.0);
/// Where in a panel that begins.
const CORNER: (f64, f64) = (50.0, 34.0);
/// Height of the legend, and of a file system's name.
const LINE: f64 = 34.0;
/// Colours that are told apart by those who see no red or no green, too.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"];

/// Draws all points.
pub(super) fn draw(points: &[Point]) -> String {
    let places = distinct(points.iter().map(|point| point.place.as_str()));
    let operations = distinct(points.iter().map(|point| point.operation));
    let servers = distinct(points.iter().map(|point| point.server.as_str()));
    let lines = operations.len().div_ceil(COLUMNS);
    let height = LINE + count(places.len()) * (LINE + count(lines) * PANEL.1);
    let width = count(COLUMNS) * PANEL.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut svg, &servers);
    let mut top = LINE;
    for place in &places {
        let title = format!("Operations a second on {place}, by number of clients");
        write_text(&mut svg, (10.0, top + 20.0), "start", &title);
        top += LINE;
        for (index, operation) in operations.iter().enumerate() {
            let corner = (
                count(index % COLUMNS) * PANEL.0 + CORNER.0,
                top + count(index / COLUMNS) * PANEL.1 + CORNER.1,
            );
            let here = |point: &&Point| point.place == *place && point.operation == *operation;
            let own: Vec<&Point> = points.iter().filter(here).collect();
            panel(&mut svg, corner, operation, &own, &servers);
        }
        top += count(lines) * PANEL.1;
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, servers: &[&str]) {
    for (index, server) in servers.iter().enumerate() {
        let x = 10.0 + count(index) * 230.0;
        let colour = COLOURS[index % COLOURS.len()];
        put(
            svg,
            &format!("<circle cx=\"{x}\" cy=\"16\" r=\"4\" fill=\"{colour}\"/>"),
        );
        write_text(svg, (x + 10.0, 20.0), "start", server);
    }
}

fn panel(svg: &mut String, corner: (f64, f64), name: &str, points: &[&Point], servers: &[&str]) {
    let (left, top) = corner;
    let scale = Scale::of(points);
    write_text(svg, (left, top - 10.0), "start", name);
    for power in scale.low..=scale.high {
        let rate = 10_f64.powi(power);
        let (y, right) = (top + scale.below_top(rate), left + PLOT.0);
        put(
            svg,
            &format!("<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#cccccc\"/>"),
        );
        write_text(svg, (left - 5.0, y + 4.0), "end", &rate.to_string());
    }
    let mut clients: Vec<usize> = points.iter().map(|point| point.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let step = PLOT.0 / count(clients.len());
    let x = |of: usize| {
        let at = clients.iter().position(|clients| *clients == of);
        left + step * (count(at.unwrap_or(0)) + 0.5)
    };
    for number in &clients {
        let at = (x(*number), top + PLOT.1 + 15.0);
        write_text(svg, at, "middle", &number.to_string());
    }
    let y = |rate: f64| top + scale.below_top(rate);
    for (server, colour) in servers.iter().zip(COLOURS.iter().cycle()) {
        let own = points.iter().filter(|point| point.server == *server);
        line(
            svg,
            colour,
            own.map(|point| (x(point.clients), point.rate)),
            y,
        );
    }
}

/// The points of one server, from left to right.
fn line(
    svg: &mut String,
    colour: &str,
    points: impl Iterator<Item = (f64, Spread)>,
    y: impl Fn(f64) -> f64,
) {
    let mut path = String::new();
    for (x, rate) in points {
        let (low, middle, high) = (y(rate.low()), y(rate.median()), y(rate.high()));
        let pen = if path.is_empty() { 'M' } else { 'L' };
        put(&mut path, &format!("{pen}{x:.1} {middle:.1}"));
        put(
            svg,
            &format!(
                "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{colour}\" stroke-width=\"5\" \
                 stroke-opacity=\"0.3\"/>\n\
                 <circle cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"3\" fill=\"{colour}\"/>"
            ),
        );
    }
    let path = path.trim_end().replace('\n', " ");
    put(
        svg,
        &format!("<path d=\"{path}\" stroke=\"{colour}\" fill=\"none\"/>"),
    );
}

fn write_text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(
        svg,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"),
    );
}

fn put(svg: &mut String, element: &str) {
    writeln!(svg, "{element}").expect("memory is left");
}

/// Powers of ten, from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// The shortest that has room for all points, whose rates must be above zero.
    fn of(points: &[&Point]) -> Self {
        let power = |rate: f64| (-3..9).rev().find(|power| 10_f64.powi(*power) <= rate);
        let lows = points
            .iter()
            .map(|point| power(point.rate.low()).unwrap_or(-3));
        let highs = points
            .iter()
            .map(|point| power(point.rate.high()).unwrap_or(-3) + 1);
        Self {
            low: lows.min().unwrap_or(0),
            high: highs.max().unwrap_or(1),
        }
    }

    /// Pixels from the upper end.
    fn below_top(self, rate: f64) -> f64 {
        let part = (f64::from(self.high) - rate.log10()) / f64::from(self.high - self.low);
        PLOT.1 * part.clamp(0.0, 1.0)
    }
}

/// Each once, in the order of their first appearance.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Point, draw};
    use crate::stats::Spread;

    #[test]
    fn each_server_has_a_line_in_each_panel() {
        let point = |server: &str, clients, rate| Point {
            place: "a < b".into(),
            operation: "prepare",
            server: server.into(),
            clients,
            rate: Spread::of([rate]),
        };
        let points = [
            point("one", 1, 10.0),
            point("one", 8, 999.0),
            point("two", 1, 100.0),
        ];
        let svg = draw(&points);
        assert_eq!(svg.matches("fill=\"none\"").count(), 2, "{svg}");
        // From the bottom of its panel nearly to the top; in the middle, between 10 and 1000.
        assert!(svg.contains("M91.2 222.0 L173.8 102.0"), "{svg}");
        assert!(svg.contains("cx=\"91.2\" cy=\"162.0\""), "{svg}");
        assert!(svg.contains("on a &lt; b,"), "{svg}");
    }
}
