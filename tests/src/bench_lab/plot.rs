//! The ratios as a picture: SVG by hand, since it is a few lines and a plotting
//! crate would bring a dozen others.

use std::fmt::Write as _;

use super::statistics::Spread;
use super::summary::{REFERENCE, Summary};

/// Width of the picture, and of what stands left of the axis.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 20.0;
/// Height of the head, of a target's line, and between two rows.
const TOP: f64 = 64.0;
const LINE: f64 = 11.0;
const GAP: f64 = 11.0;
/// Colours that colour-blind people tell apart (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];

/// The axis: logarithmic, so that twice and half are equally far from 1.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Room for all ratios, at least from one half to 2, in whole doublings.
    fn of(spreads: &[Spread]) -> Self {
        let least = spreads.iter().map(|s| s.low).fold(0.5, f64::min);
        let most = spreads.iter().map(|s| s.high).fold(2.0, f64::max);
        Self {
            low: least.max(1.0 / 1024.0).log2().floor(),
            high: most.min(1024.0).log2().ceil(),
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        let place = (ratio.log2() - self.low) / (self.high - self.low);
        LEFT + place.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// Medians as dots, least to greatest as lines, the noise of the reference as a
/// grey band; one row for each of the table.
#[must_use]
pub fn svg(summary: &Summary) -> String {
    let others: Vec<&str> = summary
        .targets
        .iter()
        .map(|line| line.target.as_str())
        .filter(|name| summary.overall.contains_key(*name))
        .collect();
    let cells = summary.rows.iter().flat_map(|row| row.cells.values());
    let axis = Axis::of(&cells.filter_map(|cell| cell.ratio).collect::<Vec<_>>());
    let pitch = LINE * others.len().max(1) as f64 + GAP;
    let bottom = TOP + pitch * summary.rows.len() as f64;
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>Commands a second, as a ratio to {REFERENCE}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        bottom + 30.0
    );
    for (index, name) in others.iter().enumerate() {
        let (x, colour) = (LEFT + 130.0 * index as f64, COLOURS[index % COLOURS.len()]);
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"40\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"44\">{name}</text>",
            x + 8.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"20\" font-size=\"14\">Commands a second, as a ratio to {REFERENCE} (right is faster; grey: \
         {REFERENCE} beside itself)</text>"
    );
    for (index, row) in summary.rows.iter().enumerate() {
        let y = TOP + pitch * index as f64;
        let noise = row.cells.get(REFERENCE).and_then(|cell| cell.noise);
        if let Some(noise) = noise {
            let (from, to) = (axis.x(1.0 / noise), axis.x(noise));
            let _ = writeln!(
                out,
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#ddd\"/>",
                y + 2.0,
                to - from,
                pitch - 4.0
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"10\" y=\"{:.1}\">{}</text>",
            y + pitch / 2.0 + 4.0,
            row.row
        );
    }
    for doubling in axis.low as i32..=axis.high as i32 {
        let ratio = f64::from(doubling).exp2();
        let (x, width) = (axis.x(ratio), if doubling == 0 { 1.5 } else { 0.5 });
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP}V{bottom:.1}\" stroke=\"#666\" stroke-width=\"{width}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio}</text>",
            bottom + 18.0
        );
    }
    for (index, row) in summary.rows.iter().enumerate() {
        for (line, name) in others.iter().enumerate() {
            let Some(ratio) = row.cells.get(*name).and_then(|cell| cell.ratio) else {
                continue;
            };
            let y = TOP + pitch * index as f64 + (GAP + LINE) / 2.0 + LINE * line as f64;
            let colour = COLOURS[line % COLOURS.len()];
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{name}: {:.2}</title></circle>",
                axis.x(ratio.low),
                axis.x(ratio.high),
                axis.x(ratio.median),
                ratio.median
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_and_half_are_equally_far_from_one_and_nothing_leaves_the_picture() {
        let axis = Axis::of(&[Spread {
            median: 0.2,
            low: 0.1,
            high: 0.3,
            count: 3,
        }]);
        let (half, one, twice) = (axis.x(0.5), axis.x(1.0), axis.x(2.0));
        assert!((one - half - (twice - one)).abs() < 1e-9);
        for ratio in [0.0, 0.1, 2.0, 1e9] {
            assert!((LEFT..=WIDTH - RIGHT).contains(&axis.x(ratio)), "{ratio}");
        }
    }

    #[test]
    fn a_picture_of_nothing_is_still_a_picture() {
        let text = svg(&Summary::default());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    }
}
