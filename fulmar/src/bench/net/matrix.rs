//! The rows as one table for documents: a line for each link, a column for each contender, and how far this program is
//! from what it is meant to reach.
//!
//! It does *not* show single runs; the rows have them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::{LATE_MS, name};
use super::{Kind, Row};

/// The table, and what to know when reading it, in Markdown.
pub(crate) fn matrix(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| order(a, b));
    let mut peers: Vec<Kind> = rows.iter().map(|row| row.peer).collect();
    peers.sort_by_key(|peer| *peer as u8);
    peers.dedup();
    let mut text = String::from("| link |");
    for peer in &peers {
        text.push_str(&format!(" {} |", peer.name()));
        if *peer == Kind::Fulmar {
            text.push_str(" share | x best |");
        }
    }
    let columns = peers.len() + 2 * usize::from(peers.contains(&Kind::Fulmar));
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns));
    let mut score = Score::default();
    for link in rows.chunk_by(|a, b| order(a, b).is_eq()) {
        let _ = write!(text, "| {} |", heading(link[0]));
        for peer in &peers {
            let row = link.iter().find(|row| row.peer == *peer);
            let _ = write!(
                text,
                " {} |",
                row.map_or_else(String::new, |row| figure(row))
            );
            if *peer == Kind::Fulmar {
                let best = best_other(link);
                let [share, times] = row.map_or_else(Default::default, |row| score.add(row, best));
                let _ = write!(text, " {share} | {times} |");
            }
        }
        text.push('\n');
    }
    text + &score.said() + &remarks(&rows)
}

/// How often this program reached what it is meant to.
#[derive(Default)]
struct Score {
    links: u32,
    filled: u32,
    compared: u32,
    fastest: u32,
}

impl Score {
    /// The two cells that judge a row of this program: its share of the link, and its rate against the best other's. What
    /// falls short is bold.
    fn add(&mut self, row: &Row, best_bps: Option<f64>) -> [String; 2] {
        let goal = goal(row.loss);
        self.links += 1;
        let share = row.share.unwrap_or(0.0);
        self.filled += u32::from(share >= goal);
        let share = bold_if(share < goal, format!("{share:.3}"));
        let Some(best) = best_bps else {
            return [share, String::new()];
        };
        self.compared += 1;
        let times = row.median_bps.unwrap_or(0.0) / best;
        self.fastest += u32::from(times >= 1.0);
        let digits = usize::from(times < 100.0) + usize::from(times < 10.0);
        let shown = if times.is_finite() {
            format!("{times:.digits$}")
        } else {
            "alone".to_owned()
        };
        [share, bold_if(times < 1.0, shown)]
    }

    fn said(&self) -> String {
        if self.links == 0 {
            return String::new();
        }
        format!(
            "\nMbit/s of file. Share: of rate x (1 - loss); the goal, {GOAL} up to 5 % and {GOAL_LOSSY} above, is reached over {} \
             of {} links. Times the best other: over {} of {} links it is 1 or more. What falls short is bold.\n",
            self.filled, self.links, self.fastest, self.compared
        )
    }
}

/// Which share of rate x (1 - loss) this program is meant to reach.
fn goal(loss: f64) -> f64 {
    if loss > GOAL_LOSS { GOAL_LOSSY } else { GOAL }
}

fn best_other(link: &[&Row]) -> Option<f64> {
    let others = link.iter().filter(|row| !row.peer.is_own());
    others.filter_map(|row| row.median_bps).reduce(f64::max)
}

/// In Mbit/s, to three digits or a tenth.
fn figure(row: &Row) -> String {
    let Some(bps) = row.median_bps.filter(|_| row.failed.is_none()) else {
        return "failed".to_owned();
    };
    let late = row.runs.iter().any(|run| run.wire.late_max_ms > LATE_MS);
    let mark = if late { "*" } else { "" };
    let digits = usize::from(bps < 99.95e6);
    format!("{:.digits$}{mark}", bps / 1e6)
}

/// What the figures do not say: who failed and why, and where the wire was late.
fn remarks(rows: &[&Row]) -> String {
    let mut text = String::new();
    let mut failures = BTreeMap::<(&str, &str), Vec<String>>::new();
    for row in rows {
        if let Some(reason) = &row.failed {
            failures
                .entry((row.peer.name(), reason))
                .or_default()
                .push(heading(row));
        }
    }
    for ((peer, reason), links) in failures {
        let _ = writeln!(text, "\n`{peer}` failed ({}): {reason}", links.join("; "));
    }
    if rows.iter().any(|row| figure(row).ends_with('*')) {
        let _ = writeln!(
            text,
            "\n\\* The machine kept the link from its work for more than {LATE_MS} ms."
        );
    }
    text
}

fn heading(row: &Row) -> String {
    name(row.rtt_ms, row.loss, row.rate_bps)
}

/// By rate, round trip, loss.
fn order(a: &Row, b: &Row) -> Ordering {
    let by_rtt = || a.rtt_ms.total_cmp(&b.rtt_ms);
    let by_loss = || a.loss.total_cmp(&b.loss);
    a.rate_bps
        .cmp(&b.rate_bps)
        .then_with(by_rtt)
        .then_with(by_loss)
}

fn bold_if(is: bool, text: String) -> String {
    if is { format!("**{text}**") } else { text }
}

/// Up to which loss a link is meant to be filled so far.
const GOAL_LOSS: f64 = 0.05;
const GOAL: f64 = 0.93;
/// And above it.
const GOAL_LOSSY: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;

    #[test]
    fn a_line_has_everyone_and_says_what_falls_short() {
        let mut late = sample(Kind::TcpBbr, &[92e6]);
        late.runs[0].wire.late_max_ms = 6.0;
        let lossy = Row {
            loss: 0.33,
            share: Some(0.86),
            ..sample(Kind::Fulmar, &[57.6e6])
        };
        let failed = Row {
            loss: 0.33,
            failed: Some("it broke".to_owned()),
            ..sample(Kind::Srt, &[])
        };
        let text = matrix(&[failed, lossy, late, sample(Kind::Fulmar, &[91e6])]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| link | fulmar | share | x best | tcp-bbr | srt |"
        );
        assert_eq!(lines[1], "|---|---|---|---|---|---|");
        assert_eq!(
            lines[2],
            "| 100.0 Mbit/s, 50 ms, 0.1 % | 91.0 | **0.911** | **0.99** | 92.0* |  |"
        );
        assert_eq!(
            lines[3],
            "| 100.0 Mbit/s, 50 ms, 33 % | 57.6 | 0.860 |  |  | failed |"
        );
        assert!(
            text.contains("over 1 of 2 links. Times the best other: over 0 of 1 links"),
            "{text}"
        );
        assert!(
            text.contains("`srt` failed (100.0 Mbit/s, 50 ms, 33 %): it broke"),
            "{text}"
        );
        assert!(text.contains("\\* The machine"), "{text}");
    }

    #[test]
    fn ratios_have_the_digits_they_deserve() {
        let times = |other_bps| {
            Score::default().add(&sample(Kind::Fulmar, &[80e6]), Some(other_bps))[1].clone()
        };
        assert_eq!(times(40e6), "2.00");
        assert_eq!(times(4e6), "20.0");
        assert_eq!(times(0.1e6), "800");
        assert_eq!(times(0.0), "alone");
    }
}
