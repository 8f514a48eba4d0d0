//! The rows as a drawing: a field for each rate and round trip, with the losses from left to right and a line for each
//! contender, as high as its share of what the link could carry.
//!
//! Plain SVG without scripts or fonts, whose colours follow whether the reader's page is light or dark. It does *not*
//! draw single runs.

use std::fmt::Write as _;

use fulmar_proto::engine::Bitrate;

use super::table::percent;
use super::{Kind, Row};

/// The drawing, as the text of an SVG file.
pub(crate) fn plot(rows: &[Row]) -> String {
    let axes = Axes::of(rows);
    let legend = (axes.peers.len() as u32).div_ceil(LEGEND_ROW) * LINE;
    let top = TOP + legend;
    let height = top + axes.rtts.len() as u32 * (HEAD + FIELD + FOOT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{TITLE}</title>\n<style>{STYLE}</style>\n"
    );
    text(&mut svg, "head", 0, LINE, TITLE);
    for (index, peer) in axes.peers.iter().enumerate() {
        let x = index as u32 % LEGEND_ROW * (WIDTH / LEGEND_ROW);
        let y = TOP + index as u32 / LEGEND_ROW * LINE + 8;
        let _ = writeln!(
            svg,
            "<g class=\"{}\"><polyline points=\"{x},{y} {},{y}\"/></g>",
            class(*peer),
            x + 28
        );
        text(&mut svg, "", x + 34, y + 4, peer.name());
    }
    let width = (WIDTH - LEFT) / (axes.rates.len() as u32).max(1) - GAP;
    for (line, &rtt_ms) in axes.rtts.iter().enumerate() {
        for (column, &rate_bps) in axes.rates.iter().enumerate() {
            let field = Field {
                x: LEFT + column as u32 * (width + GAP),
                y: top + line as u32 * (HEAD + FIELD + FOOT) + HEAD,
                width,
            };
            let here = |row: &&Row| row.rtt_ms == rtt_ms && row.rate_bps == rate_bps;
            let mut rows: Vec<&Row> = rows.iter().filter(here).collect();
            rows.sort_by(|a, b| a.loss.total_cmp(&b.loss));
            let rate = Bitrate::from_bits_per_sec(rate_bps);
            field.draw(&mut svg, &format!("{rate}, {rtt_ms} ms"), &axes, &rows);
        }
    }
    svg + "</svg>\n"
}

/// What is on the axes, each in order.
struct Axes {
    rates: Vec<u64>,
    rtts: Vec<f64>,
    losses: Vec<f64>,
    peers: Vec<Kind>,
}

impl Axes {
    fn of(rows: &[Row]) -> Self {
        let floats = |of: fn(&Row) -> f64| {
            let mut values: Vec<f64> = rows.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        let mut rates: Vec<u64> = rows.iter().map(|row| row.rate_bps).collect();
        rates.sort_unstable();
        rates.dedup();
        let mut peers: Vec<Kind> = rows.iter().map(|row| row.peer).collect();
        peers.sort_by_key(|peer| *peer as u8);
        peers.dedup();
        Self {
            rates,
            rtts: floats(|row| row.rtt_ms),
            losses: floats(|row| row.loss),
            peers,
        }
    }
}

/// One rate and one round trip.
struct Field {
    x: u32,
    y: u32,
    width: u32,
}

impl Field {
    /// Its axes, and the lines of these rows, which are in order of loss.
    fn draw(&self, svg: &mut String, title: &str, axes: &Axes, rows: &[&Row]) {
        text(svg, "head", self.x, self.y - 8, title);
        for quarter in 0..=4 {
            let (x, y, end) = (self.x, self.y + FIELD * quarter / 4, self.x + self.width);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x},{y}H{end}\"/>");
            if x == LEFT && quarter % 2 == 0 {
                let share = f64::from(4 - quarter) / 4.0;
                text(svg, "left", x - 6, y + 4, &share.to_string());
            }
        }
        for (index, loss) in axes.losses.iter().enumerate() {
            let (x, y) = (self.across(index, axes) as u32, self.y + FIELD + 16);
            text(svg, "below", x, y, &format!("{} %", percent(*loss)));
        }
        // This program's line last, on top of the others.
        for &peer in axes.peers.iter().rev() {
            self.line(svg, peer, axes, rows);
        }
    }

    /// One contender's.
    fn line(&self, svg: &mut String, peer: Kind, axes: &Axes, rows: &[&Row]) {
        let (mut line, mut dots) = (String::new(), String::new());
        for row in rows.iter().filter(|row| row.peer == peer) {
            let index = axes.losses.iter().position(|loss| *loss == row.loss);
            let x = self.across(index.unwrap_or(0), axes);
            // Who failed has brought nothing across.
            let share = row.share.unwrap_or(0.0).clamp(0.0, 1.0);
            let y = f64::from(self.y) + f64::from(FIELD) * (1.0 - share);
            let _ = write!(line, "{x:.1},{y:.1} ");
            let _ = writeln!(
                dots,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"><title>{}, {} %: {}</title></circle>",
                peer.name(),
                percent(row.loss),
                said(row),
            );
        }
        let (class, line) = (class(peer), line.trim_end());
        let _ = writeln!(
            svg,
            "<g class=\"{class}\">\n<polyline points=\"{line}\"/>\n{dots}</g>"
        );
    }

    /// Where the loss of this index is.
    fn across(&self, index: usize, axes: &Axes) -> f64 {
        let step = f64::from(self.width) / axes.losses.len().max(1) as f64;
        f64::from(self.x) + step * (index as f64 + 0.5)
    }
}

fn said(row: &Row) -> String {
    match (row.median_bps, row.share, &row.failed) {
        (Some(bps), Some(share), None) => format!("{:.1} Mbit/s, {share:.3}", bps / 1e6),
        _ => "failed".to_owned(),
    }
}

/// A colour for each program, dashes for each controller.
fn class(peer: Kind) -> String {
    peer.name().replace('-', " ")
}

fn text(svg: &mut String, class: &str, x: u32, y: u32, words: &str) {
    // What is written here is ours: names of contenders and figures, none with a character that needs escaping.
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>"
    );
}

const TITLE: &str = "Share of rate x (1 - loss) that arrives as file, by loss each way";
const WIDTH: u32 = 720;
const LEFT: u32 = 34;
const TOP: u32 = 34;
/// Contenders side by side in the legend.
const LEGEND_ROW: u32 = 5;
const LINE: u32 = 18;
/// Above, of and below a field.
const HEAD: u32 = 34;
const FIELD: u32 = 150;
const FOOT: u32 = 22;
const GAP: u32 = 24;
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#333}.head{font-weight:600}\
    .left{text-anchor:end}.below{text-anchor:middle}.grid{stroke:#8884;fill:none}\
    polyline{fill:none;stroke:currentColor;stroke-width:1.5}circle{fill:currentColor}\
    .cubic polyline,.plain polyline{stroke-dasharray:4 3}.fulmar polyline{stroke-width:3}\
    .fulmar{color:#0b7285}.tcp{color:#e8590c}.scp{color:#c2255c}.quinn{color:#6741d9}.srt{color:#5c940d}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}\
    .fulmar{color:#3bc9db}.tcp{color:#ff922b}.scp{color:#f783ac}.quinn{color:#b197fc}.srt{color:#a9e34b}}";

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;

    #[test]
    fn every_row_has_a_dot_at_its_share_in_the_field_of_its_link() {
        let none = Row {
            failed: Some("it broke".to_owned()),
            median_bps: None,
            share: None,
            ..sample(Kind::Srt, &[])
        };
        let far = Row {
            rtt_ms: 140.0,
            loss: 0.05,
            ..sample(Kind::Srt, &[99.9e6])
        };
        let half = sample(Kind::Fulmar, &[99.9e6 / 2.0]);
        let svg = plot(&[half, none, far]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<circle").count(), 3);
        let fields = ["100.0 Mbit/s, 50 ms", "100.0 Mbit/s, 140 ms"];
        assert!(fields.iter().all(|field| svg.contains(field)), "{svg}");
        let top = TOP + LINE + HEAD;
        let middle = format!("cy=\"{:.1}\"", f64::from(top + FIELD / 2));
        assert!(svg.contains(&middle), "half of it: {middle} in {svg}");
        assert!(svg.contains("fulmar, 0.1 %: 50.0 Mbit/s, 0.500"), "{svg}");
        assert!(svg.contains("srt, 0.1 %: failed"), "{svg}");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }
}
