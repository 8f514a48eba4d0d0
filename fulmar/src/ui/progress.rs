//! The progress of files: a bar on a terminal, a line a second in a log, events for programs.
//!
//! All three show the same figures: percent, bytes, rate, time left, round trip, loss, chunks repaired by parity and
//! chunks sent again. What was repaired is known to the receiver only, the round trip to the sender only; a figure
//! that this end does not know is left out. It does *not* keep any clock but for the spacing of lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fulmar_proto::engine::Bytes;
use fulmar_proto::hpudp::{Phase, Snapshot};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Event, Figures, Voice, escaped, phase_word};

/// Shows the transfers of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    voice: Voice,
    bars: MultiProgress,
    /// What is shown, by file and peer.
    shown: BTreeMap<(String, Option<SocketAddr>), Shown>,
}

#[derive(Debug)]
struct Shown {
    bar: Option<ProgressBar>,
    /// Phase and time of the last line.
    last: Option<(Phase, Instant)>,
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new(voice: Voice) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self {
            voice,
            bars,
            shown: BTreeMap::new(),
        }
    }

    /// Shows how the transfer of `file`, a foreign name, stands.
    pub(crate) fn update(&mut self, file: &str, peer: SocketAddr, snapshot: &Snapshot) {
        // Whatever was shown before the peer was known is over.
        self.remove(file, None);
        let voice = self.voice;
        match voice {
            Voice::Bar => self.draw(
                file,
                Some(peer),
                snapshot.done,
                snapshot.size,
                figures(snapshot).join(", "),
            ),
            Voice::Lines if self.is_time(file, Some(peer), snapshot.phase) => {
                self.voice
                    .say(&format!("{}: {}", escaped(file.as_bytes()), line(snapshot)));
            }
            Voice::Json if self.is_time(file, Some(peer), snapshot.phase) => {
                self.voice
                    .emit(&Event::Progress(Figures::new(file, snapshot)));
            }
            Voice::Lines | Voice::Json | Voice::Quiet => {}
        }
    }

    /// Shows how far `file` has been read for its hash.
    pub(crate) fn hashing(&mut self, file: &str, done: u64, size: u64) {
        if self.voice == Voice::Bar {
            self.draw(
                file,
                None,
                done,
                size,
                "reading it once for its hash".to_owned(),
            );
        }
    }

    /// Ends with this file: takes its bar away, so that what is said next stands alone.
    pub(crate) fn clear(&mut self, file: &str, peer: SocketAddr) {
        self.remove(file, None);
        self.remove(file, Some(peer));
    }

    /// Runs `speak` while no bar is in the way.
    pub(crate) fn aside(&self, speak: impl FnOnce()) {
        self.bars.suspend(speak);
    }

    fn draw(
        &mut self,
        file: &str,
        peer: Option<SocketAddr>,
        done: u64,
        size: u64,
        message: String,
    ) {
        let bars = &self.bars;
        let shown = self
            .shown
            .entry((file.to_owned(), peer))
            .or_insert_with(Shown::nothing);
        let bar = shown.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(size));
            bar.set_style(style());
            bar.set_prefix(shortened(&escaped(file.as_bytes())));
            bar
        });
        bar.set_length(size);
        bar.set_position(done);
        bar.set_message(message);
    }

    fn is_time(&mut self, file: &str, peer: Option<SocketAddr>, phase: Phase) -> bool {
        let now = Instant::now();
        let shown = self
            .shown
            .entry((file.to_owned(), peer))
            .or_insert_with(Shown::nothing);
        let due = shown
            .last
            .is_none_or(|(last, at)| last != phase || now - at >= SPACING);
        if due {
            shown.last = Some((phase, now));
        }
        due
    }

    fn remove(&mut self, file: &str, peer: Option<SocketAddr>) {
        if let Some(Shown { bar: Some(bar), .. }) = self.shown.remove(&(file.to_owned(), peer)) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

impl Shown {
    fn nothing() -> Self {
        Self {
            bar: None,
            last: None,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for bar in self.shown.values().filter_map(|shown| shown.bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}

/// One line that says everything, for a log.
pub(crate) fn line(snapshot: &Snapshot) -> String {
    let percent = match snapshot.size {
        0 => 100,
        size => u128::from(snapshot.done) * 100 / u128::from(size),
    };
    let mut parts = vec![format!("{percent} % of {}", Bytes(snapshot.size))];
    parts.extend(figures(snapshot));
    parts.join(", ")
}

fn figures(snapshot: &Snapshot) -> Vec<String> {
    let mut parts = Vec::new();
    if snapshot.phase != Phase::Transferring {
        parts.push(phase_word(snapshot.phase).to_owned());
    }
    parts.push(snapshot.goodput.to_string());
    let left = snapshot
        .goodput
        .time_for(snapshot.size.saturating_sub(snapshot.done));
    if left < TIME_LEFT_MAX && !left.is_zero() {
        parts.push(format!("{} left", short_time(left)));
    }
    if let Some(rtt) = snapshot.rtt {
        parts.push(format!("RTT {}", short_time(rtt)));
    }
    parts.push(format!("loss {:.1} %", snapshot.loss * 100.0));
    if snapshot.repaired > 0 {
        parts.push(format!("repaired {}", snapshot.repaired));
    }
    if snapshot.retransmitted > 0 {
        parts.push(format!("resent {}", snapshot.retransmitted));
    }
    parts
}

/// A time in the unit in which people say it.
pub(crate) fn short_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time < Duration::from_millis(10) => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

fn style() -> ProgressStyle {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let template = if plain { PLAIN } else { COLOURED };
    ProgressStyle::with_template(template)
        .expect("the templates below are well formed")
        .progress_chars("=> ")
}

/// A name that leaves room for the figures.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_SHOWN {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(NAME_SHOWN - 1).collect();
    short.push('…');
    short
}

// Two lines: on eighty columns the figures need one of their own.
const PLAIN: &str = "{prefix} [{wide_bar}] {percent:>3} % of {binary_total_bytes}\n  {wide_msg}";
const COLOURED: &str =
    "{prefix:.bold} [{wide_bar:.cyan}] {percent:>3} % of {binary_total_bytes}\n  {wide_msg}";
/// Characters of a name in front of the bar.
const NAME_SHOWN: usize = 24;
/// Between two lines about the same phase.
const SPACING: Duration = Duration::from_secs(1);
/// Beyond this an estimate says nothing.
const TIME_LEFT_MAX: Duration = Duration::from_secs(100 * 3600);

#[cfg(test)]
mod tests {
    use fulmar_proto::engine::Bitrate;

    use super::*;

    fn half_done() -> Snapshot {
        Snapshot {
            phase: Phase::Transferring,
            size: 100 << 20,
            done: 50 << 20,
            goodput: Bitrate::from_bits_per_sec(41_943_040),
            rtt: Some(Duration::from_micros(140_200)),
            loss: 0.051,
            repaired: 12,
            retransmitted: 3,
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_line_says_everything_that_is_known() {
        let want = "50 % of 100.0 MiB, 41.9 Mbit/s, 10 s left, RTT 140 ms, loss 5.1 %, repaired 12, resent 3";
        assert_eq!(line(&half_done()), want);
    }

    #[test]
    fn the_tail_says_that_it_repairs() {
        let tail = Snapshot {
            phase: Phase::Repairing,
            done: 100 << 20,
            ..half_done()
        };
        assert!(
            line(&tail).starts_with("100 % of 100.0 MiB, repairing, "),
            "{}",
            line(&tail)
        );
    }

    #[test]
    fn nothing_known_is_no_division_by_zero() {
        assert_eq!(
            line(&Snapshot::default()),
            "100 % of 0 B, connecting, 0 bit/s, loss 0.0 %"
        );
        let stalled = Snapshot {
            goodput: Bitrate::default(),
            ..half_done()
        };
        assert!(!line(&stalled).contains("left"));
    }

    #[test]
    fn lines_come_once_a_phase_within_a_second() {
        let mut progress = Progress::new(Voice::Lines);
        let one = Some(SocketAddr::from(([192, 0, 2, 7], 9000)));
        assert!(progress.is_time("a", one, Phase::Transferring));
        assert!(!progress.is_time("a", one, Phase::Transferring));
        assert!(progress.is_time("a", one, Phase::Repairing));
        assert!(progress.is_time("b", one, Phase::Repairing));
        assert!(progress.is_time("a", None, Phase::Repairing));
    }

    #[test]
    fn long_names_leave_room() {
        assert_eq!(shortened("short"), "short");
        let long = "ß".repeat(300);
        assert_eq!(shortened(&long).chars().count(), NAME_SHOWN);
    }

    #[test]
    fn the_templates_are_well_formed() {
        for template in [PLAIN, COLOURED] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
