//! The rows for people, one line each as they come, in Markdown so that they can stand in a document as they are.
//!
//! It does *not* hide what did not run, nor what did not arrive whole.

use std::fmt::Write as _;

use fulmar_proto::engine::Bitrate;

use super::{Link, Row, Run};

/// Writes the table line by line.
#[derive(Debug, Default)]
pub(crate) struct Table {
    begun: bool,
}

impl Table {
    /// The line, or lines, of this row; the head comes with the first one.
    pub(crate) fn row(&mut self, row: &Row) -> String {
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            line(&mut text, HEAD.map(|(head, _)| head.to_owned()));
            line(&mut text, HEAD.map(|(_, width)| "-".repeat(width)));
        }
        line(&mut text, cells(row));
        text
    }
}

/// What a link is and was found to be, in a sentence.
pub(crate) fn described(link: &Link) -> String {
    let probe = &link.probe;
    let rtt = probe.rtt_ms.map_or_else(
        || "no answer".to_owned(),
        |rtt| format!("round trip {rtt:.2} ms"),
    );
    format!(
        "{}: {rtt}, {} of {} probes lost on the way there, {} of {} on the way back",
        name(link.rtt_ms, link.loss, link.rate_bps),
        probe.sent - probe.arrived,
        probe.sent,
        probe.arrived.saturating_sub(probe.answered),
        probe.arrived,
    )
}

/// A link in short: rate, round trip, loss.
pub(super) fn name(rtt_ms: f64, loss: f64, rate_bps: u64) -> String {
    let rate = Bitrate::from_bits_per_sec(rate_bps);
    format!("{rate}, {rtt_ms} ms, {} %", percent(loss))
}

fn cells(row: &Row) -> [String; 7] {
    let link = name(row.rtt_ms, row.loss, row.rate_bps);
    let mut cells = [(); 7].map(|()| String::new());
    [cells[0], cells[1]] = [link, row.peer.name().to_owned()];
    if let Some(reason) = &row.failed {
        cells[6] = format!("failed: {reason}");
        return cells;
    }
    let (Some(median), Some(share)) = (row.median_bps, row.share) else {
        return cells;
    };
    cells[2] = format!("{:.1}", median / 1e6);
    cells[3] = format!("{:.0} %", share * 100.0);
    cells[4] = range(&row.runs);
    cells[5] = processors(&row.runs);
    let whole = row.runs.iter().filter(|run| run.whole).count();
    let late = row.runs.iter().map(|run| run.wire.late_max_ms);
    let late = late.fold(0.0, f64::max);
    cells[6] = if whole == row.runs.len() {
        "whole".to_owned()
    } else {
        let bytes = row.runs.iter().map(|run| run.bytes).min().unwrap_or(0);
        format!(
            "{whole} of {} whole, least {:.1} MB",
            row.runs.len(),
            bytes as f64 / 1e6
        )
    };
    if late > LATE_MS {
        let _ = write!(cells[6], ", wire late by {late:.0} ms");
    }
    cells
}

fn range(runs: &[Run]) -> String {
    let rates = runs.iter().map(|run| run.rate_bps / 1e6);
    let low = rates.clone().fold(f64::INFINITY, f64::min);
    let high = rates.fold(0.0, f64::max);
    format!("{low:.1} to {high:.1}")
}

/// Busy processors of sender, receiver and wire, on average over all runs.
fn processors(runs: &[Run]) -> String {
    let time: f64 = runs.iter().map(|run| run.seconds).sum();
    let mean = |of: &dyn Fn(&Run) -> Option<f64>| {
        let sum: Option<f64> = runs.iter().map(of).sum();
        sum.map_or_else(|| "?".to_owned(), |sum| format!("{:.2}", sum / time))
    };
    [
        mean(&|run| run.cpu_s[0]),
        mean(&|run| run.cpu_s[1]),
        mean(&|run| Some(run.wire.cpu_s)),
    ]
    .join(" + ")
}

/// A share in per cent, with as many digits as it has, up to thousandths.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(text: &mut String, cells: [String; 7]) {
    text.push('|');
    for (cell, (_, width)) in cells.iter().zip(HEAD) {
        write!(text, " {cell:<width$} |").expect("writing to a string does not fail");
    }
    text.push('\n');
}

/// A wire that was later than this, in milliseconds, was kept from its work.
pub(super) const LATE_MS: f64 = 5.0;
/// Heads and least widths of the columns. Rows come one by one, so no width can follow from them.
const HEAD: [(&str, usize); 7] = [
    ("link", 29),
    ("", 12),
    ("Mbit/s", 6),
    ("share", 5),
    ("lowest to highest", 17),
    ("processors: send + recv + wire", 30),
    ("file", 5),
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::Kind;
    use super::super::emulator::Carried;
    use super::super::road::Probe;
    use super::*;

    pub(in super::super) fn sample(peer: Kind, rates_bps: &[f64]) -> Row {
        let run = |&rate_bps: &f64| Run {
            bytes: 1_000_000,
            seconds: 2.0,
            rate_bps,
            whole: true,
            cpu_s: [Some(1.0), None],
            wire: Carried {
                cpu_s: 0.5,
                ..Carried::default()
            },
        };
        Row {
            rtt_ms: 50.0,
            loss: 0.001,
            rate_bps: 100_000_000,
            peer,
            median_bps: rates_bps.first().copied(),
            share: rates_bps.first().map(|bps| bps / 99.9e6),
            runs: rates_bps.iter().map(run).collect(),
            failed: None,
        }
    }

    #[test]
    fn a_row_says_who_how_fast_and_at_what_cost() {
        let mut table = Table::default();
        let first = table.row(&sample(Kind::Fulmar, &[90e6, 80e6]));
        assert_eq!(first.lines().count(), 3, "{first}");
        let row = first.lines().last().unwrap_or_default();
        for needle in [
            "100.0 Mbit/s, 50 ms, 0.1 %",
            "| fulmar ",
            "| 90.0 ",
            "90 %",
            "80.0 to 90.0",
            "0.50 + ? + 0.25",
            "whole",
        ] {
            assert!(row.contains(needle), "{needle}: {row}");
        }
        let mut part = sample(Kind::ScpCubic, &[1e6, 2e6]);
        part.runs[1].whole = false;
        part.runs[0].wire.late_max_ms = 31.4;
        let second = table.row(&part);
        assert_eq!(second.lines().count(), 1);
        assert!(
            second.contains("1 of 2 whole, least 1.0 MB, wire late by 31 ms"),
            "{second}"
        );
    }

    #[test]
    fn a_failure_keeps_its_line() {
        let row = Row {
            failed: Some("it broke".to_owned()),
            ..sample(Kind::Srt, &[])
        };
        assert!(Table::default().row(&row).contains("failed: it broke"));
    }

    #[test]
    fn a_link_is_described_as_found() {
        let link = Link {
            rtt_ms: 1.0,
            loss: 0.33,
            rate_bps: 1_000_000_000,
            probe: Probe {
                sent: 100,
                arrived: 70,
                answered: 50,
                rtt_ms: Some(1.125),
            },
        };
        let text = described(&link);
        for needle in ["1.00 Gbit/s, 1 ms, 33 %", "1.1", "30 of 100", "20 of 70"] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }
}
