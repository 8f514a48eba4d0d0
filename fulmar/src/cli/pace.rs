//! How fast a sender sends: the options that every verb that sends shares.
//!
//! It does *not* know which verb that is.

use clap::{Args, ValueEnum};
use fulmar::config::{Dscp, Schedule, parse_bitrate};
use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{Config, Control, Parity};
use fulmar_proto::sim::Profile;

use super::fault::Fault;

/// How a sender finds its rate and its parity.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Pace {
    /// What sets the rate: fair (a fair share, by delivery and queueing delay), low (what others leave), fixed (--rate,
    /// whatever happens) or hpudp (the published rules)
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::Fair, alias = "cc")]
    policy: Policy,
    /// How much parity follows each block: adaptive (what ends the transfer soonest) or table (the published one)
    #[arg(long, value_name = "RULE", value_enum, default_value_t = Fec::Adaptive)]
    fec: Fec,
}

/// Between which bounds, and with which mark.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Bounds {
    /// Begin at this rate, all headers but IP's included, such as 50M; with --policy fixed, stay at it
    #[arg(long, value_name = "RATE", value_parser = parse_bitrate)]
    rate: Option<Bitrate>,
    /// Never send more slowly than this, unless --bwlimit says so
    #[arg(long, value_name = "RATE", value_parser = parse_bitrate)]
    min_rate: Option<Bitrate>,
    /// Never send faster than this
    #[arg(long, value_name = "RATE", value_parser = parse_bitrate)]
    max_rate: Option<Bitrate>,
    /// Never send faster than this, all transfers together: a rate, or rates by local time, such as
    /// 08:00-18:00=20M,18:00-23:00=50M,*=off
    #[arg(long, value_name = "LIMIT", default_value = "off")]
    bwlimit: Schedule,
    #[command(flatten)]
    mark: Mark,
}

/// Through how many sockets.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Width {
    /// Speak through so many sockets, 1 to 16: for networks that treat each flow by itself, such as links in a bundle
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: u8,
}

/// How datagrams are marked.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Mark {
    /// Mark every datagram for the network: le, cs1, af11, ef and the like, or 0 to 63
    #[arg(
        long,
        value_name = "MARK",
        default_value = "cs0",
        hide_default_value = true
    )]
    dscp: Dscp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    #[value(alias = "delivery")]
    Fair,
    Low,
    Fixed,
    Hpudp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fec {
    Adaptive,
    Table,
}

impl Pace {
    /// The configuration of a sender on a link of ours, which has to find the rate by itself unless that is fixed.
    pub(super) fn config_for(self, link: &Profile) -> Result<Config, Fault> {
        self.config(&Bounds {
            rate: link.up.rate.filter(|_| self.policy == Policy::Fixed),
            ..Bounds::default()
        })
    }

    /// The configuration of a sender between these bounds.
    pub(super) fn config(self, bounds: &Bounds) -> Result<Config, Fault> {
        bounds.check(self.policy)?;
        let control = match self.policy {
            Policy::Fair => Control::Delivery,
            Policy::Low => Control::Low,
            Policy::Fixed => Control::Fixed,
            Policy::Hpudp => Control::Hpudp,
        };
        let parity = match self.fec {
            Fec::Adaptive => Parity::Adaptive,
            Fec::Table => Parity::Table,
        };
        let max_rate = match self.policy {
            Policy::Fixed => bounds.rate,
            Policy::Fair | Policy::Low | Policy::Hpudp => bounds.max_rate,
        };
        let mut config = Config {
            control,
            parity,
            max_rate,
            ..Config::default()
        };
        let most = max_rate.unwrap_or(Bitrate::from_bits_per_sec(u64::MAX));
        // The default gives way to what is asked for.
        let least = config.min_rate.min(bounds.rate.unwrap_or(most)).min(most);
        config.min_rate = bounds.min_rate.unwrap_or(least);
        let start = bounds.rate.unwrap_or(config.start_rate);
        config.start_rate = start.min(most).max(config.min_rate);
        Ok(config)
    }
}

impl Bounds {
    /// What all transfers together may use, and when.
    pub(super) fn bwlimit(&self) -> &Schedule {
        &self.bwlimit
    }

    /// How datagrams are marked.
    pub(super) fn dscp(&self) -> Dscp {
        self.mark.dscp()
    }

    fn check(&self, policy: Policy) -> Result<(), Fault> {
        if policy == Policy::Fixed && self.rate.is_none() {
            return Err(Fault::usage(
                "--policy fixed needs --rate, the rate that is fixed, such as --rate 50M",
            ));
        }
        let bounds = [
            ("--min-rate", self.min_rate),
            ("--rate", self.rate),
            ("--max-rate", self.max_rate),
        ];
        let given: Vec<(&str, Bitrate)> = bounds
            .into_iter()
            .filter_map(|(name, rate)| Some((name, rate?)))
            .collect();
        for pair in given.windows(2) {
            let [(low, least), (high, most)] = pair else {
                continue;
            };
            if least > most {
                return Err(Fault::usage(format!(
                    "{low} {least} is above {high} {most}; write it the other way round, or leave one out"
                )));
            }
        }
        Ok(())
    }
}

impl Width {
    /// So many sockets.
    pub(super) fn sockets(self) -> u8 {
        self.parallel
    }
}

impl Mark {
    /// The mark; zero is none.
    pub(super) fn dscp(self) -> Dscp {
        self.dscp
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const POLICIES: [Policy; 4] = [Policy::Fair, Policy::Low, Policy::Fixed, Policy::Hpudp];

    fn mbit(rate: u64) -> Option<Bitrate> {
        Some(Bitrate::from_bits_per_sec(rate * 1_000_000))
    }

    fn config(policy: Policy, rates: [Option<Bitrate>; 3]) -> Result<Config, Fault> {
        let [min_rate, rate, max_rate] = rates;
        let bounds = Bounds {
            rate,
            min_rate,
            max_rate,
            ..Bounds::default()
        };
        let fec = Fec::Table;
        Pace { policy, fec }.config(&bounds)
    }

    #[test]
    fn bounds_hold_under_every_policy() {
        for policy in POLICIES {
            for min in [None, mbit(1), mbit(3)] {
                for rate in [
                    None,
                    Some(Bitrate::from_bits_per_sec(9)),
                    mbit(2),
                    mbit(3),
                    mbit(80),
                ] {
                    for max in [None, mbit(3), mbit(100)] {
                        let given: Vec<Bitrate> = [min, rate, max].into_iter().flatten().collect();
                        let made = config(policy, [min, rate, max]);
                        let sound =
                            given.is_sorted() && (policy != Policy::Fixed || rate.is_some());
                        assert_eq!(made.is_ok(), sound, "{policy:?} {min:?} {rate:?} {max:?}");
                        let Ok(made) = made else { continue };
                        assert_eq!(made.parity, Parity::Table);
                        assert!(made.min_rate <= made.start_rate);
                        assert!(made.max_rate.is_none_or(|most| made.start_rate <= most));
                        if let Some(rate) = rate {
                            assert_eq!(made.start_rate, rate);
                        }
                        match policy {
                            Policy::Fixed => assert_eq!(made.max_rate, rate),
                            Policy::Fair | Policy::Low | Policy::Hpudp => {
                                assert_eq!(made.max_rate, max)
                            }
                        }
                        if let Some(min) = min {
                            assert_eq!(made.min_rate, min);
                        }
                    }
                }
            }
        }
        let free = config(Policy::Fair, [None; 3]).unwrap();
        assert_eq!(free.start_rate, Config::default().start_rate);
        assert_eq!(free.min_rate, Config::default().min_rate);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_named() {
        let sentence = config(Policy::Fair, [mbit(5), None, mbit(4)]).unwrap_err();
        let sentence = sentence.to_string();
        assert!(
            sentence.contains("--min-rate 5.0 Mbit/s") && sentence.contains("--max-rate 4.0"),
            "{sentence}"
        );
    }
}
