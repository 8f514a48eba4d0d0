//! Which link: a name, and figures that change it.
//!
//! It does *not* know what runs over the link.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use fulmar::config::{parse_bitrate, parse_duration, parse_fraction};
use fulmar_proto::engine::Bitrate;
use fulmar_proto::sim::{LinkConfig, Loss, Profile};

use crate::ui::short_time;

/// The options that choose a link.
#[derive(Clone, Debug, Args)]
pub(super) struct Link {
    /// A link by name
    #[arg(long, value_name = "NAME", default_value = "lossy", value_parser = names())]
    link: String,
    /// Loss each way, in place of the link's own, such as 5%
    #[arg(long, value_name = "SHARE", value_parser = parse_fraction)]
    loss: Option<f64>,
    /// Round trip, in place of the link's own, such as 140ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    rtt: Option<Duration>,
    /// Rate each way, in place of the link's own, such as 100M
    #[arg(long, value_name = "RATE", value_parser = parse_bitrate)]
    rate: Option<Bitrate>,
}

impl Link {
    /// The link asked for.
    pub(super) fn profile(&self) -> Profile {
        let mut profile = Profile::named(&self.link).expect("the parser admits known names only");
        let rtt = self.rtt.unwrap_or_else(|| profile.rtt());
        for direction in [&mut profile.up, &mut profile.down] {
            if let Some(share) = self.loss {
                direction.loss = Loss::Independent(share);
            }
            if let Some(rtt) = self.rtt {
                direction.delay = rtt / 2;
            }
            if let Some(rate) = self.rate {
                direction.rate = Some(rate);
            }
            if self.rtt.is_some() || self.rate.is_some() {
                direction.queue = queue(direction, rtt);
            }
        }
        profile
    }
}

/// One line about one direction of a link.
pub(super) fn described(direction: &LinkConfig) -> String {
    let rate = direction
        .rate
        .map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
    format!(
        "{rate}, {} one way, {} loss",
        short_time(direction.delay),
        percent(direction.loss.share())
    )
}

/// A share with as many digits as it has, up to thousandths of a per cent.
fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(Profile::ALL.iter().map(|profile| profile.name))
}

/// Half of what is on its way, as the named links have.
fn queue(direction: &LinkConfig, rtt: Duration) -> usize {
    let half = direction.rate.map_or(0, |rate| rate.bytes_in(rtt) / 2);
    usize::try_from(half).unwrap_or(usize::MAX).max(QUEUE_MIN)
}

const QUEUE_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link {
            link: name.to_owned(),
            loss: None,
            rtt: None,
            rate: None,
        }
    }

    #[test]
    fn figures_replace_those_of_the_name_and_no_others() {
        let plain = link("satellite").profile();
        let named = Profile::named("satellite").expect("it has a name");
        assert_eq!(
            (plain.up, plain.down),
            (named.up.clone(), named.down.clone())
        );
        let changed = Link {
            loss: Some(0.05),
            ..link("satellite")
        }
        .profile();
        assert_eq!(changed.up.loss, Loss::Independent(0.05));
        assert_eq!(
            LinkConfig {
                loss: named.down.loss,
                ..changed.down
            },
            named.down
        );
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            ["0 %", "5 %", "0.001 %", "100 %"].map(str::to_owned),
            [0.0, 0.05, 0.000_01, 1.0].map(percent)
        );
        assert_eq!(
            described(&link("lossy").profile().up),
            "100.0 Mbit/s, 70 ms one way, 5 % loss"
        );
    }

    #[test]
    fn the_queue_follows_rate_and_round_trip() {
        let rate = Bitrate::from_bits_per_sec(80_000_000);
        let fast = Link {
            rate: Some(rate),
            rtt: Some(Duration::from_millis(100)),
            ..link("lossy")
        }
        .profile();
        assert_eq!(fast.rtt(), Duration::from_millis(100));
        assert_eq!(fast.up.queue, 500_000);
        let slow = Link {
            rate: Some(Bitrate::from_bits_per_sec(8_000)),
            ..link("lossy")
        }
        .profile();
        assert_eq!(slow.up.queue, QUEUE_MIN);
    }
}
