//! What was measured, as JSON lines in a file: to draw from, and to go on from.
//!
//! The lines are those of `--json`. It does *not* decide what is measured; who measures asks what is there.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};

use super::{Cell, Kind, Row, Settings, Update};

/// The rows of one file or of several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// In the order in which they were measured.
    pub(crate) rows: Vec<Row>,
}

impl Kept {
    /// Reads these files, one after the other. A row takes the place of an earlier one of the same contender and link.
    ///
    /// # Errors
    ///
    /// If one cannot be read, or has a line that is none of ours.
    pub(crate) fn read<P: AsRef<Path>>(paths: &[P]) -> anyhow::Result<Self> {
        let mut kept = Self::default();
        for path in paths {
            for update in updates(path.as_ref())? {
                if let Update::Row(row) = update {
                    kept.add(row);
                }
            }
        }
        Ok(kept)
    }

    /// One more.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows
            .retain(|old| !(old.peer == row.peer && old.is_over(&row.cell())));
        self.rows.push(row);
    }

    /// Whether this one is there.
    pub(super) fn has(&self, cell: &Cell, kind: Kind) -> bool {
        self.rows
            .iter()
            .any(|row| row.peer == kind && row.is_over(cell))
    }
}

/// A file that grows by what is measured.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
}

impl Log {
    /// Opens it to go on with, and says what it has.
    ///
    /// # Errors
    ///
    /// If it cannot be read or written, or was begun with other settings.
    pub(crate) fn open(path: &Path, settings: &Settings) -> anyhow::Result<(Self, Kept)> {
        if path.exists() {
            for update in updates(path)? {
                if let Update::Begun(old) = update
                    && old != *settings
                {
                    bail!(
                        "{} was begun with other settings ({old}); give the same, or another file",
                        path.display()
                    );
                }
            }
        }
        let file = File::options().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok((Self { file }, Kept::read(&[path])?))
    }

    /// Adds a line, unless this is not for keeping.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn write(&mut self, update: &Update) -> anyhow::Result<()> {
        if matches!(update, Update::Doing(_)) {
            return Ok(());
        }
        let line = serde_json::to_string(update)? + "\n";
        Ok(self.file.write_all(line.as_bytes())?)
    }
}

fn updates(path: &Path) -> anyhow::Result<Vec<Update>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("line {} of {} is no row", number + 1, path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::table::tests::sample;
    use super::*;

    const SETTINGS: Settings = Settings {
        size: 200_000_000,
        time_s: 20.0,
        runs: 1,
        seed: 1,
    };

    #[test]
    fn a_file_is_gone_on_with_and_only_under_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let (mut log, kept) = Log::open(&path, &SETTINGS).unwrap();
        assert!(kept.rows.is_empty());
        log.write(&Update::Begun(SETTINGS)).unwrap();
        log.write(&Update::Doing("nothing to keep".into())).unwrap();
        let row = sample(Kind::Srt, &[1e6]);
        log.write(&Update::Row(row.clone())).unwrap();
        let (_, kept) = Log::open(&path, &SETTINGS).unwrap();
        assert!(kept.has(&row.cell(), Kind::Srt));
        assert!(!kept.has(&row.cell(), Kind::TcpBbr));
        let other = Cell {
            loss: 0.05,
            ..row.cell()
        };
        assert!(!kept.has(&other, Kind::Srt));
        let error = Log::open(
            &path,
            &Settings {
                runs: 2,
                ..SETTINGS
            },
        )
        .unwrap_err();
        assert!(error.to_string().contains("--runs 1"), "{error}");
    }

    #[test]
    fn a_later_row_takes_the_place_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        for (path, bps) in paths.iter().zip([1e6, 2e6]) {
            let (mut log, _) = Log::open(path, &SETTINGS).unwrap();
            log.write(&Update::Row(sample(Kind::Srt, &[bps]))).unwrap();
        }
        let kept = Kept::read(&paths).unwrap();
        let rates: Vec<_> = kept.rows.iter().map(|row| row.median_bps).collect();
        assert_eq!(rates, [Some(2e6)]);
        fs::write(&paths[0], "{}\n").unwrap();
        assert!(
            Kept::read(&paths)
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }
}
