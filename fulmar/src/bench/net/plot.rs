//! The rows as a drawing: one group of bars for each link, one bar for each contender, as long as its share of what the
//! link could carry.
//!
//! Plain SVG without scripts or fonts, whose colours follow whether the reader's page is light or dark. It does *not*
//! draw single runs.

use std::fmt::Write as _;

use super::Row;
use super::table::name;

/// The drawing, as the text of an SVG file.
pub(crate) fn plot(rows: &[Row]) -> String {
    let mut body = String::new();
    let (mut y, mut link) = (TOP, String::new());
    for row in rows {
        let here = name(row.rtt_ms, row.loss, row.rate_bps);
        if here != link {
            y += GROUP;
            text(&mut body, "head", LEFT, y, &here);
            y += GAP;
            link = here;
        }
        bar(&mut body, row, y);
        y += BAR + GAP;
    }
    let height = y + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Share of rate x (1 - loss) that arrives as file</title>\n<style>{STYLE}</style>\n"
    );
    for tenths in [0, 5, 10] {
        let x = LEFT + SPAN * tenths / 10;
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{}\"/>",
            y + GAP
        );
        text(
            &mut svg,
            "axis",
            x,
            TOP - GAP,
            &format!("{} %", tenths * 10),
        );
    }
    svg + &body + "</svg>\n"
}

fn bar(svg: &mut String, row: &Row, y: u32) {
    let share = row.share.unwrap_or(0.0).clamp(0.0, 1.0);
    let width = f64::from(SPAN) * share;
    let class = if row.peer.starts_with("fulmar") {
        "own"
    } else {
        "other"
    };
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>"
    );
    let middle = y + BAR - 4;
    text(svg, "name", LEFT - 8, middle, row.peer);
    let figure = match (row.median_bps, row.share, &row.failed) {
        (Some(bps), Some(share), None) => {
            format!("{:.1} Mbit/s, {:.0} %", bps / 1e6, share * 100.0)
        }
        _ => "failed".to_owned(),
    };
    text(svg, "figure", LEFT + width as u32 + 6, middle, &figure);
}

fn text(svg: &mut String, class: &str, x: u32, y: u32, words: &str) {
    // What is written here is ours: names of contenders and figures, none with a character that needs escaping.
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>"
    );
}

const WIDTH: u32 = 720;
const LEFT: u32 = 110;
/// The length of a bar that has everything.
const SPAN: u32 = 460;
const TOP: u32 = 30;
const BOTTOM: u32 = 10;
const GROUP: u32 = 22;
const BAR: u32 = 14;
const GAP: u32 = 5;
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}\
    .name{text-anchor:end}.axis{text-anchor:middle;fill:#777}.grid{stroke:#ddd}\
    .own{fill:#0b7285}.other{fill:#adb5bd}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.axis{fill:#999}.grid{stroke:#444}\
    .own{fill:#3bc9db}.other{fill:#666e76}}";

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;

    #[test]
    fn every_row_has_a_bar_of_its_share() {
        let half = sample("fulmar", &[99.9e6 / 2.0]);
        let none = Row {
            failed: Some("it broke".to_owned()),
            median_bps: None,
            share: None,
            ..sample("srt", &[])
        };
        let svg = plot(&[half, none]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(
            svg.matches("class=\"head\"").count(),
            1,
            "one link, one head"
        );
        assert!(svg.contains("class=\"own\" x=\"110\"") && svg.contains("width=\"230.0\""));
        assert!(svg.contains("50.0 Mbit/s, 50 %") && svg.contains(">failed<"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
