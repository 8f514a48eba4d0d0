//! The table that people read, in Markdown so that it can stand in a document as it is.
//!
//! It does *not* hide what did not run: a skipped or failed contender keeps its line and says why.

use std::fmt::{self, Write as _};

use fulmar_proto::engine::{Bitrate, Bytes};

use super::{Report, Row};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} from {place} to {place} over loopback, {} processors, median of {} interleaved runs\n",
            Bytes(self.size),
            self.processors,
            self.runs,
            place = self.place.display(),
        )?;
        let raw = self.rows.first().and_then(|row| row.median_bps);
        let (quinn, scp) = (self.median_of("quinn"), self.median_of("scp"));
        let head = [
            "",
            "median",
            "lowest to highest",
            "of raw",
            "x quinn",
            "x scp",
            "memory, send and recv",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| cells(row, [raw, quinn, scp])));
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        for (index, line) in lines.iter().enumerate() {
            writeln!(f, "{}", joined(line, &widths))?;
            if index == 0 {
                writeln!(
                    f,
                    "|{}",
                    widths.map(|width| "-".repeat(width + 2) + "|").concat()
                )?;
            }
        }
        writeln!(f)?;
        for row in &self.rows {
            writeln!(f, "- {}: {}", row.name, row.note)?;
        }
        Ok(())
    }
}

fn cells(row: &Row, [raw, quinn, scp]: [Option<f64>; 3]) -> [String; COLUMNS] {
    let Some(median) = row.median_bps.filter(|_| row.failed.is_none()) else {
        let why = match (&row.failed, &row.skipped) {
            (Some(reason), _) => format!("failed: {reason}"),
            (None, Some(reason)) => format!("skipped: {reason}"),
            (None, None) => "did not run".to_owned(),
        };
        return [
            row.name.to_owned(),
            why,
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ];
    };
    let (low, high) = (
        row.rates_bps.iter().copied().fold(f64::INFINITY, f64::min),
        row.rates_bps.iter().copied().fold(0.0, f64::max),
    );
    [
        row.name.to_owned(),
        Bitrate::from_bits_per_sec(median as u64).to_string(),
        format!("{:.2} to {:.2}", low / 1e9, high / 1e9),
        raw.map_or_else(String::new, |raw| format!("{:.0} %", 100.0 * median / raw)),
        times(median, quinn),
        times(median, scp),
        match row.peak_bytes {
            [Some(send), Some(recv)] => format!("{}, {}", Bytes(send), Bytes(recv)),
            [Some(_), None] | [None, _] => String::new(),
        },
    ]
}

fn times(median: f64, other: Option<f64>) -> String {
    other.map_or_else(String::new, |other| format!("{:.2}", median / other))
}

fn joined(line: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut text = String::from("|");
    for (cell, width) in line.iter().zip(widths) {
        write!(text, " {cell:<width$} |").expect("writing to a string does not fail");
    }
    text
}

const COLUMNS: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_keeps_its_line() {
        let measured = |name, bps| Row {
            rates_bps: vec![bps],
            median_bps: Some(bps),
            ..Row::new(name, "a note")
        };
        let report = Report {
            size: 1 << 30,
            runs: 1,
            place: "memory".into(),
            processors: 2,
            rows: vec![
                measured("raw UDP, GSO", 40e9),
                Row {
                    peak_bytes: [Some(100 << 20), Some(50 << 20)],
                    ..measured("fulmar send, plain", 10e9)
                },
                measured("quinn", 8e9),
                measured("scp", 4e9),
                Row {
                    skipped: Some("rsync is not installed".into()),
                    ..Row::new("rsync", "")
                },
                Row {
                    failed: Some("it broke".into()),
                    ..measured("tcp", 1e9)
                },
            ],
        };
        let text = report.to_string();
        let line = |name: &str| {
            text.lines()
                .find(|line| line.contains(name))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(
            ["25 %", "1.25", "2.50"]
                .iter()
                .all(|cell| line("fulmar send").contains(cell)),
            "{text}"
        );
        assert!(
            line("fulmar send").contains("100.0 MiB, 50.0 MiB"),
            "{text}"
        );
        assert!(
            line("| rsync").contains("skipped: rsync is not installed"),
            "{text}"
        );
        assert!(line("| tcp").contains("failed: it broke"), "{text}");
        let columns: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.chars().count())
            .collect();
        assert!(columns.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
