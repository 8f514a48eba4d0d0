//! How much may be sent at which time of the day: [`Schedule`].
//!
//! `50M` always, or windows of local time, `08:00-18:00=20M,18:00-23:00=50M,*=off`. A window goes up to its end and not
//! beyond, and over midnight if that comes first; windows do not overlap, so their order means nothing; `*` is the rest
//! of the day, and `off` no limit. It does *not* know what time it is, nor the days of the week.

use std::fmt;
use std::str::FromStr;

use fulmar_proto::engine::Bitrate;

use super::parse_bitrate;

/// Limits through a day. The default is none at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    windows: Vec<Window>,
    /// Outside of every window.
    rest: Option<Bitrate>,
}

/// A text that is no schedule. Prints as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?} {problem}; write a rate, such as 50M, or windows of local time, such as 08:00-18:00=20M,*=off"
)]
pub struct ScheduleError {
    part: String,
    problem: String,
}

/// Minutes of the day, the last one excluded, and what holds in them. It ends before it begins if midnight is within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    from: u16,
    to: u16,
    limit: Option<Bitrate>,
}

impl Schedule {
    /// The limit in a minute of the day, counted from midnight; `None` is no limit.
    pub fn at(&self, minute: u16) -> Option<Bitrate> {
        let window = self.windows.iter().find(|window| window.has(minute));
        window.map_or(self.rest, |window| window.limit)
    }

    /// Whether the time of the day makes no difference.
    pub fn is_constant(&self) -> bool {
        self.windows.iter().all(|window| window.limit == self.rest)
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if !text.contains(['=', ',']) {
            return Ok(Self {
                windows: Vec::new(),
                rest: limit(text.trim(), text)?,
            });
        }
        let (mut schedule, mut rest) = (Self::default(), false);
        for part in text.split(',') {
            let error = |problem: &str| ScheduleError {
                part: part.to_owned(),
                problem: problem.to_owned(),
            };
            let (times, rate) = part
                .split_once('=')
                .ok_or_else(|| error("has no = and limit"))?;
            let (times, limit) = (times.trim(), limit(rate.trim(), part)?);
            if times == "*" {
                if std::mem::replace(&mut rest, true) {
                    return Err(error("is the second rest of the day"));
                }
                schedule.rest = limit;
                continue;
            }
            let ends = times.split_once('-').and_then(|(from, to)| {
                Some((minute_of(from).filter(|from| *from < DAY)?, minute_of(to)?))
            });
            let (from, to) = ends.ok_or_else(|| error("has no times from 00:00 to 24:00"))?;
            let window = Window { from, to, limit };
            if from == to {
                return Err(error("is no time at all"));
            }
            let taken = |minute| schedule.windows.iter().any(|other| other.has(minute));
            if (0..DAY).any(|minute| window.has(minute) && taken(minute)) {
                return Err(error("overlaps a window before it"));
            }
            schedule.windows.push(window);
        }
        Ok(schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Window { from, to, limit } in &self.windows {
            let (from, to) = ((from / 60, from % 60), (to / 60, to % 60));
            write!(f, "{:02}:{:02}-{:02}:{:02}=", from.0, from.1, to.0, to.1)?;
            write_limit(f, *limit)?;
            f.write_str(",")?;
        }
        if !self.windows.is_empty() {
            f.write_str("*=")?;
        }
        write_limit(f, self.rest)
    }
}

impl Window {
    fn has(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

fn limit(rate: &str, part: &str) -> Result<Option<Bitrate>, ScheduleError> {
    if rate == "off" {
        return Ok(None);
    }
    let rate = parse_bitrate(rate).map_err(|error| ScheduleError {
        part: part.to_owned(),
        problem: format!("has no limit: {error}"),
    })?;
    Ok(Some(rate))
}

/// Reads `HH:MM`; 24:00 is the end of the day.
fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| two)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = 60 * hours + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

fn write_limit(f: &mut fmt::Formatter<'_>, limit: Option<Bitrate>) -> fmt::Result {
    match limit {
        Some(rate) => write!(f, "{}bit", rate.bits_per_sec()),
        None => f.write_str("off"),
    }
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn mbit(rate: u64) -> Option<Bitrate> {
        Some(Bitrate::from_bits_per_sec(rate * 1_000_000))
    }

    #[test]
    fn what_the_manual_shows() {
        let always: Schedule = "50M".parse().unwrap();
        assert!(always.is_constant());
        assert_eq!((always.at(0), always.at(1439)), (mbit(50), mbit(50)));
        assert_eq!("off".parse(), Ok(Schedule::default()));

        let office: Schedule = "08:00-18:00=20M, 18:00-23:00=50M, *=off".parse().unwrap();
        assert!(!office.is_constant());
        for (hour, minute, want) in [
            (0, 0, None),
            (7, 59, None),
            (8, 0, mbit(20)),
            (17, 59, mbit(20)),
            (18, 0, mbit(50)),
            (22, 59, mbit(50)),
            (23, 0, None),
            (23, 59, None),
        ] {
            assert_eq!(office.at(60 * hour + minute), want, "{hour}:{minute}");
        }
        let night: Schedule = "22:30-06:00=off,*=1M".parse().unwrap();
        for (minute, want) in [
            (0, None),
            (359, None),
            (360, mbit(1)),
            (1349, mbit(1)),
            (1350, None),
        ] {
            assert_eq!(night.at(minute), want, "{minute}");
        }
        let late: Schedule = "20:00-24:00=2M".parse().unwrap();
        assert_eq!((late.at(1439), late.at(0)), (mbit(2), None));
    }

    #[test]
    fn what_is_refused_and_how() {
        for (text, needle) in [
            ("", "50M"),
            ("fast", "no rate"),
            ("0M", "zero"),
            ("08:00-18:00", "no rate"),
            ("08:00-18:00=20M,", "no = and limit"),
            ("08:00-18:00=20", "no rate"),
            ("8:00-18:00=20M", "00:00 to 24:00"),
            ("08:00-18:60=20M", "00:00 to 24:00"),
            ("24:00-01:00=20M", "00:00 to 24:00"),
            ("08:00-24:01=20M", "00:00 to 24:00"),
            ("08:00=20M", "00:00 to 24:00"),
            ("08:00-08:00=20M", "no time at all"),
            ("08:00-18:00=20M,17:59-19:00=1M", "overlaps"),
            ("22:00-06:00=20M,05:00-07:00=1M", "overlaps"),
            ("*=1M,*=2M", "second rest"),
        ] {
            let sentence = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(sentence.contains(needle), "{text}: {sentence}");
            assert!(sentence.contains("08:00-18:00=20M,*=off") && !sentence.contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_schedule_or_a_sentence(text in "\\PC{0,40}|[0-9:=*,offM-]{0,60}") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                prop_assert_eq!(schedule.to_string().parse(), Ok(schedule));
            }
        }

        /// The naive twin is a table of the day, filled minute by minute.
        #[test]
        fn agrees_with_a_table(
            windows in prop::collection::vec((0u16..DAY, 0u16..=DAY, prop::option::of(1u64..1000)), 1..4),
            rest in prop::option::of(1u64..1000),
        ) {
            let word = |rate: Option<u64>| rate.map_or_else(|| "off".to_owned(), |rate| format!("{rate}M"));
            let mut day = vec![None; usize::from(DAY)];
            let (mut text, mut sound) = (String::new(), true);
            for &(from, to, rate) in &windows {
                text += &format!("{:02}:{:02}-{:02}:{:02}={},", from / 60, from % 60, to / 60, to % 60, word(rate));
                sound &= from != to;
                let mut minute = from;
                while sound && minute != to % DAY {
                    sound &= day[usize::from(minute)].replace(rate).is_none();
                    minute = (minute + 1) % DAY;
                    // Midnight ends a window that ends at 24:00.
                    if minute == 0 && to == DAY {
                        break;
                    }
                }
            }
            text += &format!("*={}", word(rest));
            let parsed = text.parse::<Schedule>();
            prop_assert_eq!(parsed.is_ok(), sound, "{}", text);
            if let Ok(schedule) = parsed {
                for (minute, limit) in day.iter().enumerate() {
                    prop_assert_eq!(schedule.at(minute as u16), limit.unwrap_or(rest).and_then(mbit), "{} at {}", text, minute);
                }
                prop_assert_eq!(schedule.to_string().parse(), Ok(schedule));
            }
        }
    }
}
