//! Why a call is refused, and how the wire says it (16).
//!
//! It does *not* decide: that is done by `connect` and by the application.

use std::fmt;

/// A reason by its number; on the wire it is 1000 more. Below 1000 the protocol's own, from 1000 those predefined for
/// applications, from 2000 an application's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u32);

impl Reason {
    /// No reason is given.
    pub const UNKNOWN: Self = Self(0);
    /// A system call failed.
    pub const SYSTEM: Self = Self(1);
    /// The application does not want this call, and says no more.
    pub const PEER: Self = Self(2);
    /// Memory or another resource is used up.
    pub const RESOURCE: Self = Self(3);
    /// The handshake makes no sense.
    pub const ROGUE: Self = Self(4);
    /// There is no room for another connection.
    pub const BACKLOG: Self = Self(5);
    /// An error inside the program.
    pub const IPE: Self = Self(6);
    /// The socket is closing.
    pub const CLOSE: Self = Self(7);
    /// The version is too old, or unknown.
    pub const VERSION: Self = Self(8);
    /// Both sides of a rendezvous drew one cookie (5.11.2).
    pub const RDVCOOKIE: Self = Self(9);
    /// The passphrase is another (6.5).
    pub const BADSECRET: Self = Self(10);
    /// One side has a passphrase and the other has none (6.5).
    pub const UNSECURE: Self = Self(11);
    /// One side has stream mode and the other has not.
    pub const MESSAGEAPI: Self = Self(12);
    /// The congestion controls differ.
    pub const CONGESTION: Self = Self(13);
    /// The packet filters contradict each other (13.2).
    pub const FILTER: Self = Self(14);
    /// Groups are not welcome, or this one is inconsistent (14.1).
    pub const GROUP: Self = Self(15);
    /// Nobody answered; never on the wire.
    pub const TIMEOUT: Self = Self(16);
    /// The cipher is not known or not welcome (6.4).
    pub const CRYPTO: Self = Self(17);
    /// The caller does not make sense to the application.
    pub const BAD_REQUEST: Self = Self(1400);
    /// The user is unknown, or did not prove who it is.
    pub const UNAUTHORIZED: Self = Self(1401);
    /// The server is too busy.
    pub const OVERLOAD: Self = Self(1402);
    /// The user may not do that.
    pub const FORBIDDEN: Self = Self(1403);
    /// There is no such resource.
    pub const NOTFOUND: Self = Self(1404);
    /// The resource does not work in this mode.
    pub const BAD_MODE: Self = Self(1405);
    /// What the caller says of its data is not acceptable.
    pub const UNACCEPTABLE: Self = Self(1406);
    /// Somebody else publishes this resource (15.2.3).
    pub const CONFLICT: Self = Self(1409);

    /// Every reason that has a name, with that name.
    pub const NAMED: [(Self, &'static str); 39] = [
        (Self::UNKNOWN, "UNKNOWN"),
        (Self::SYSTEM, "SYSTEM"),
        (Self::PEER, "PEER"),
        (Self::RESOURCE, "RESOURCE"),
        (Self::ROGUE, "ROGUE"),
        (Self::BACKLOG, "BACKLOG"),
        (Self::IPE, "IPE"),
        (Self::CLOSE, "CLOSE"),
        (Self::VERSION, "VERSION"),
        (Self::RDVCOOKIE, "RDVCOOKIE"),
        (Self::BADSECRET, "BADSECRET"),
        (Self::UNSECURE, "UNSECURE"),
        (Self::MESSAGEAPI, "MESSAGEAPI"),
        (Self::CONGESTION, "CONGESTION"),
        (Self::FILTER, "FILTER"),
        (Self::GROUP, "GROUP"),
        (Self::TIMEOUT, "TIMEOUT"),
        (Self::CRYPTO, "CRYPTO"),
        (Self(1000), "FALLBACK"),
        (Self(1001), "KEY_NOTSUP"),
        (Self(1002), "FILEPATH"),
        (Self(1003), "HOSTNOTFOUND"),
        (Self::BAD_REQUEST, "BAD_REQUEST"),
        (Self::UNAUTHORIZED, "UNAUTHORIZED"),
        (Self::OVERLOAD, "OVERLOAD"),
        (Self::FORBIDDEN, "FORBIDDEN"),
        (Self::NOTFOUND, "NOTFOUND"),
        (Self::BAD_MODE, "BAD_MODE"),
        (Self::UNACCEPTABLE, "UNACCEPTABLE"),
        (Self::CONFLICT, "CONFLICT"),
        (Self(1415), "NOTSUP_MEDIA"),
        (Self(1423), "LOCKED"),
        (Self(1424), "FAILED_DEPEND"),
        (Self(1500), "ISE"),
        (Self(1501), "UNIMPLEMENTED"),
        (Self(1502), "GW"),
        (Self(1503), "DOWN"),
        (Self(1505), "VERSION_NOTSUP"),
        (Self(1507), "NOROOM"),
    ];

    /// The reason that a handshake type stands for; `None` when it is too small for one.
    pub(crate) fn from_wire(word: u32) -> Option<Self> {
        word.checked_sub(WIRE).map(Self)
    }

    /// The handshake type that stands for it. An application's number that is too large for one is cut.
    pub(crate) fn to_wire(self) -> u32 {
        self.0.saturating_add(WIRE).min(WIRE_MAX)
    }

    /// Its name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        let named = Self::NAMED.iter().find(|(reason, _)| *reason == self);
        named.map(|(_, name)| *name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::UNKNOWN => "the peer gives no reason",
            Self::SYSTEM => "a system call failed at the peer",
            Self::PEER => "the peer does not want this call",
            Self::RESOURCE => "the peer is out of resources",
            Self::ROGUE => "the handshake makes no sense",
            Self::BACKLOG => "the peer has no room for another connection",
            Self::IPE => "the peer has an error inside",
            Self::CLOSE => "the peer is closing",
            Self::VERSION => "the versions do not fit together",
            Self::RDVCOOKIE => "both sides drew one cookie; try again",
            Self::BADSECRET => "the passphrases differ",
            Self::UNSECURE => "one side has a passphrase and the other has none",
            Self::MESSAGEAPI => "one side sends messages and the other a byte stream",
            Self::CONGESTION => "one side is in live mode and the other in file mode",
            Self::FILTER => "the packet filters contradict each other",
            Self::GROUP => "the peer takes no groups, or not this one",
            Self::TIMEOUT => "no answer in time",
            Self::CRYPTO => "the ciphers do not fit together",
            Self::BAD_REQUEST => "the peer does not understand the Stream ID",
            Self::UNAUTHORIZED => "the peer does not know this user",
            Self::OVERLOAD => "the peer is overloaded",
            Self::FORBIDDEN => "the peer does not allow that",
            Self::NOTFOUND => "the peer has no such stream",
            Self::BAD_MODE => "the stream does not work in this mode",
            Self::UNACCEPTABLE => "the peer does not accept these terms",
            Self::CONFLICT => "somebody else publishes this stream",
            Self(code) => {
                return match self.name() {
                    Some(name) => write!(f, "reason {code}, {name}"),
                    None => write!(f, "reason {code}"),
                };
            }
        })
    }
}

/// What a code has added to it on the wire.
const WIRE: u32 = 1000;
/// Beyond it the types have meanings of their own (5.1.3).
const WIRE_MAX: u32 = 0xffff_fffc;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_order() {
        let mut names: Vec<_> = Reason::NAMED.iter().map(|(_, name)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::NAMED.len());
        assert!(Reason::NAMED.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn the_wire_has_a_thousand_more() {
        assert_eq!(Reason::from_wire(1014), Some(Reason::FILTER));
        assert_eq!(Reason::from_wire(2403), Some(Reason::FORBIDDEN));
        assert_eq!(Reason::from_wire(999), None);
        for (reason, _) in Reason::NAMED {
            assert_eq!(Reason::from_wire(reason.to_wire()), Some(reason));
        }
    }

    #[test]
    fn all_are_shown_and_unknown_ones_as_numbers() {
        assert_eq!(
            Reason::CONFLICT.to_string(),
            "somebody else publishes this stream"
        );
        assert_eq!(Reason(1423).to_string(), "reason 1423, LOCKED");
        assert_eq!(Reason(2042).to_string(), "reason 2042");
        for code in 0..18 {
            assert!(
                !Reason(code).to_string().contains("reason 1"),
                "{code} has no sentence"
            );
        }
    }
}
