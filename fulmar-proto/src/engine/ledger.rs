//! What an address that has proved nothing may draw from us: [`Ledger`].
//!
//! Source addresses are forged, so whoever answers a stranger with more than the stranger sent is somebody's weapon.
//! Every protocol keeps one ledger per unproven peer. It does *not* decide what proves a peer: only an echo of bytes
//! that can have been received nowhere else, or a packet sealed under a key that needs our contribution, does.

/// Bytes heard from a peer and said to it: at most three times as many, until it is proved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    heard: usize,
    said: usize,
    proved: bool,
}

impl Ledger {
    /// A datagram of so many bytes came from there.
    pub fn hear(&mut self, len: usize) {
        self.heard = self.heard.saturating_add(len);
    }

    /// The peer is where its packets say: no limit from now on.
    pub fn prove(&mut self) {
        self.proved = true;
    }

    /// Whether the peer is proved.
    pub fn is_proved(&self) -> bool {
        self.proved
    }

    /// Bytes that may be said now.
    pub fn room(&self) -> usize {
        if self.proved {
            usize::MAX
        } else {
            let earned = self.heard.saturating_mul(AMPLIFICATION);
            earned.saturating_sub(self.said)
        }
    }

    /// Whether a datagram of so many bytes may leave; if so it is booked.
    pub fn say(&mut self, len: usize) -> bool {
        let may = len <= self.room();
        if may {
            self.said = self.said.saturating_add(len);
        }
        may
    }
}

/// Bytes out per byte in.
const AMPLIFICATION: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_for_one_until_proved() {
        let mut ledger = Ledger::default();
        assert!(!ledger.say(1));
        ledger.hear(100);
        assert!(ledger.say(299) && ledger.say(1) && !ledger.say(1));
        ledger.prove();
        assert!(ledger.say(usize::MAX));
    }
}
