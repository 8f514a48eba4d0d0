//! When bytes may leave: [`Pacer`] spaces what we send, [`RateLimit`] refuses what others send.
//!
//! Both are one bucket that counts in 10⁻⁹ bit, the product of a rate in bit/s and a time in ns, so nothing is ever
//! rounded and no rate drifts, whatever the wake-ups. They do *not* choose the rate, and they do *not* sleep: the
//! instant [`Pacer::ready_at`] gives belongs in `poll_timeout`.

use std::time::{Duration, Instant};

use super::Bitrate;

/// A deficit bucket: credit grows with time, is capped at a burst, and may be overdrawn by the last packet sent.
#[derive(Clone, Debug)]
pub struct Pacer {
    bucket: Bucket,
    burst: Duration,
}

impl Pacer {
    /// Paces at `rate`. After a rest, and at first, what takes `burst` to send at that rate may leave at once, and
    /// never less than 1500 bytes, or slow rates would not move.
    pub fn new(rate: Bitrate, burst: Duration) -> Self {
        Self {
            bucket: Bucket::full(rate, Self::cap(rate, burst)),
            burst,
        }
    }

    /// Changes the rate from `now` on. Credit and debt stand, in bytes, but credit shrinks to the new burst.
    pub fn set_rate(&mut self, now: Instant, rate: Bitrate) {
        self.bucket.settle(now);
        self.bucket.rate = rate;
        self.bucket.cap = Self::cap(rate, self.burst);
    }

    /// The rate now paced at.
    pub const fn rate(&self) -> Bitrate {
        self.bucket.rate
    }

    /// Bytes that may leave at `now`; 0 in debt.
    pub fn budget(&self, now: Instant) -> u64 {
        let balance = self.bucket.balance_at(now);
        u64::try_from(balance / BYTE).unwrap_or(if balance < 0 { 0 } else { u64::MAX })
    }

    /// Takes `bytes` that left at `now` from the credit. What is missing is a debt, paid before anything else
    /// leaves.
    pub fn spend(&mut self, now: Instant, bytes: u64) {
        self.bucket.settle(now);
        self.bucket.take(bytes);
    }

    /// When `bytes` may leave, if not at `now`. More bytes than a burst may leave as soon as the burst is full; the
    /// rest becomes debt. At rate zero the answer is a day away, every time it is asked.
    pub fn ready_at(&self, now: Instant, bytes: u64) -> Option<Instant> {
        let wanted = cost(bytes).min(self.bucket.cap);
        self.bucket
            .reaches(now, wanted)
            .filter(|&ready| ready > now)
    }

    fn cap(rate: Bitrate, burst: Duration) -> i128 {
        product(rate, burst).max(cost(MTU))
    }
}

/// A token bucket: says yes to so many bytes a second, with bursts up to a fixed size.
#[derive(Clone, Debug)]
pub struct RateLimit {
    bucket: Bucket,
}

impl RateLimit {
    /// Allows `rate` in the long run and `burst_bytes` at once. A request larger than the burst is never allowed.
    pub fn new(rate: Bitrate, burst_bytes: u64) -> Self {
        Self {
            bucket: Bucket::full(rate, cost(burst_bytes)),
        }
    }

    /// Whether `bytes` may pass at `now`; if so they are counted. A refusal costs nothing.
    pub fn allow(&mut self, now: Instant, bytes: u64) -> bool {
        self.bucket.settle(now);
        let allowed = self.bucket.balance >= cost(bytes);
        if allowed {
            self.bucket.take(bytes);
        }
        allowed
    }
}

/// Credit at a rate, up to a cap. Amounts are in 10⁻⁹ bit.
#[derive(Clone, Debug)]
struct Bucket {
    rate: Bitrate,
    cap: i128,
    /// Credit at `settled`; negative is debt.
    balance: i128,
    /// Up to when credit was counted; never moves back. `None` until the first use.
    settled: Option<Instant>,
}

impl Bucket {
    const fn full(rate: Bitrate, cap: i128) -> Self {
        Self {
            rate,
            cap,
            balance: cap,
            settled: None,
        }
    }

    fn settle(&mut self, now: Instant) {
        self.balance = self.balance_at(now);
        self.settled = self.settled.max(Some(now));
    }

    fn balance_at(&self, now: Instant) -> i128 {
        let Some(settled) = self.settled else {
            return self.balance;
        };
        let earned = product(self.rate, now.saturating_duration_since(settled));
        self.balance.saturating_add(earned).min(self.cap)
    }

    fn take(&mut self, bytes: u64) {
        self.balance = self.balance.saturating_sub(cost(bytes));
    }

    /// When the balance becomes `wanted`; `None` if it was when last settled. Never more than [`FAR`] from `now`.
    fn reaches(&self, now: Instant, wanted: i128) -> Option<Instant> {
        let missing = u128::try_from(wanted.saturating_sub(self.balance))
            .ok()
            .filter(|&m| m > 0)?;
        let nanos = match self.rate.bits_per_sec() {
            0 => u64::MAX,
            rate => u64::try_from(missing.div_ceil(u128::from(rate))).unwrap_or(u64::MAX),
        };
        let ready = self.settled?.checked_add(Duration::from_nanos(nanos));
        let never = now + FAR;
        Some(ready.map_or(never, |ready| ready.min(never)))
    }
}

/// What `bytes` cost.
fn cost(bytes: u64) -> i128 {
    i128::from(bytes) * BYTE
}

/// What `rate` earns in `time`, saturating.
fn product(rate: Bitrate, time: Duration) -> i128 {
    let earned = u128::from(rate.bits_per_sec()).saturating_mul(time.as_nanos());
    i128::try_from(earned).unwrap_or(i128::MAX)
}

/// One byte in 10⁻⁹ bit.
const BYTE: i128 = 8_000_000_000;
/// Least burst in bytes: a full Ethernet packet.
const MTU: u64 = 1500;
/// Stands for "never".
const FAR: Duration = Duration::from_secs(86_400);

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bytes_per_sec(bytes: u64) -> Bitrate {
        Bitrate::from_bytes_per_sec(bytes)
    }

    /// Sends packets of `size` for `span`, waking late by awkward amounts that the burst still covers, and returns
    /// bytes sent beyond the burst that was free at the start.
    fn run(rate: Bitrate, size: u64, late: &[Duration], span: Duration) -> u64 {
        let start = Instant::now();
        let mut pacer = Pacer::new(rate, MS * 2);
        let free = pacer.budget(start);
        let (mut now, mut sent) = (start, 0);
        for late in late.iter().cycle() {
            while pacer.ready_at(now, size).is_none() {
                pacer.spend(now, size);
                sent += size;
            }
            let ready = pacer.ready_at(now, size).expect("the loop above ended");
            assert!(ready > now);
            if ready + *late > start + span {
                break;
            }
            now = ready + *late;
        }
        sent + pacer.budget(start + span) - free
    }

    #[test]
    fn no_rate_drifts() {
        let late = [1, 333, 17, 77_777, 999, 61].map(Duration::from_nanos);
        let span = Duration::from_secs(10);
        for (rate, size) in [(10_000, 100), (2_000_000, 1400), (1_500_000_000, 1400 * 64)] {
            let sent = run(bytes_per_sec(rate), size, &late, span);
            let fair = rate * span.as_secs();
            assert!(
                sent.abs_diff(fair) <= 1,
                "{sent} of {fair} bytes at {rate} bytes/s"
            );
        }
    }

    proptest! {
        #[test]
        fn bytes_sent_never_exceed_burst_and_rate_and_catch_up_exactly(
            bits in 1..20_000_000_000_u64,
            wakes in prop::collection::vec((0..3_000_000_u64, 0..100_000_u64), 1..200),
        ) {
            let rate = Bitrate::from_bits_per_sec(bits);
            let start = Instant::now();
            let mut pacer = Pacer::new(rate, MS * 2);
            // The twin keeps the books from the definition: a balance in 10^-9 bit.
            let cap = (i128::from(bits) * 2_000_000).max(1500 * BYTE);
            let (mut now, mut twin) = (start, cap);
            pacer.spend(start, 0);
            for (nanos, bytes) in wakes {
                now += Duration::from_nanos(nanos);
                twin = cap.min(twin + i128::from(bits) * i128::from(nanos));
                prop_assert_eq!(i128::from(pacer.budget(now)), twin.max(0) / BYTE);
                match pacer.ready_at(now, bytes) {
                    None => {
                        prop_assert!(twin >= cap.min(cost(bytes)));
                        pacer.spend(now, bytes);
                        twin -= cost(bytes);
                    }
                    Some(ready) => {
                        let wait = i128::try_from((ready - now).as_nanos()).expect("small");
                        let need = cap.min(cost(bytes));
                        prop_assert!(wait == i128::try_from(FAR.as_nanos()).expect("small")
                            || twin + i128::from(bits) * wait >= need, "not too early");
                        prop_assert!(twin + i128::from(bits) * (wait - 1) < need, "not too late");
                    }
                }
            }
        }
    }

    #[test]
    fn a_debt_is_carried_exactly_and_credit_is_capped() {
        let now = Instant::now();
        let mut pacer = Pacer::new(bytes_per_sec(1_000_000), MS * 2);
        assert_eq!(pacer.budget(now), 2000);
        assert_eq!(
            pacer.ready_at(now, 64_000),
            None,
            "a batch larger than the burst leaves when the burst is full"
        );
        pacer.spend(now, 64_000);
        assert_eq!(pacer.budget(now), 0);
        assert_eq!(
            pacer.ready_at(now, 1),
            Some(now + MS * 62 + Duration::from_micros(1))
        );
        assert_eq!(
            pacer.ready_at(now, 64_000),
            Some(now + MS * 64),
            "62 ms of debt and 2 ms of burst"
        );
        assert_eq!(pacer.budget(now + MS * 63), 1000);
        assert_eq!(pacer.budget(now + MS * 500), 2000, "rest earns one burst");
    }

    #[test]
    fn a_slow_rate_moves_a_packet_at_a_time() {
        let now = Instant::now();
        let mut pacer = Pacer::new(bytes_per_sec(10_000), MS * 2);
        assert_eq!(pacer.ready_at(now, 1400), None);
        pacer.spend(now, 1400);
        assert_eq!(pacer.ready_at(now, 1400), Some(now + MS * 130));
    }

    #[test]
    fn a_new_rate_counts_from_its_moment() {
        let now = Instant::now();
        let mut pacer = Pacer::new(bytes_per_sec(1_000_000), MS * 2);
        pacer.spend(now, 12_000);
        pacer.set_rate(now + MS * 4, bytes_per_sec(100_000));
        assert_eq!(pacer.rate(), bytes_per_sec(100_000));
        assert_eq!(
            pacer.ready_at(now + MS * 4, 0),
            Some(now + MS * 64),
            "6000 bytes owed at the new rate"
        );
        pacer.set_rate(now + MS * 4, bytes_per_sec(6_000_000_000));
        assert_eq!(pacer.budget(now + MS * 6), 12_000_000 - 6000);
        pacer.set_rate(now + MS * 6, bytes_per_sec(1_000_000));
        assert_eq!(
            pacer.budget(now + MS * 6),
            2000,
            "credit shrinks to the new burst"
        );
    }

    #[test]
    fn time_that_steps_back_earns_nothing_twice() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut pacer = Pacer::new(bytes_per_sec(1_000_000), MS * 2);
        pacer.spend(start, 2000);
        pacer.spend(start - Duration::from_secs(5), 0);
        assert_eq!(pacer.budget(start - Duration::from_secs(5)), 0);
        assert_eq!(pacer.budget(start), 0);
        assert_eq!(pacer.budget(start + MS), 1000);
    }

    #[test]
    fn extremes_saturate() {
        let now = Instant::now();
        let mut still = Pacer::new(Bitrate::default(), MS * 2);
        assert_eq!(still.ready_at(now, 1500), None);
        still.spend(now, 1500);
        assert_eq!(
            still.ready_at(now + MS, 1),
            Some(now + MS + FAR),
            "a rate of zero never earns"
        );
        assert_eq!(still.budget(now + FAR), 0);

        let mut endless = Pacer::new(Bitrate::from_bits_per_sec(u64::MAX), Duration::MAX);
        assert_eq!(endless.budget(now), u64::MAX);
        (0..100).for_each(|_| endless.spend(now, u64::MAX));
        assert_eq!(endless.budget(now + FAR), u64::MAX);
    }

    #[test]
    fn a_limit_refuses_without_punishing() {
        let now = Instant::now();
        let mut limit = RateLimit::new(bytes_per_sec(1000), 300);
        assert!(limit.allow(now, 200));
        assert!(!limit.allow(now, 101));
        assert!(limit.allow(now, 100), "the refusal cost nothing");
        assert!(!limit.allow(now, 1));
        assert!(!limit.allow(now + MS * 100, 101));
        assert!(limit.allow(now + MS * 100, 100));
        assert!(
            !limit.allow(now + Duration::from_secs(9), 301),
            "more than the burst, never"
        );
        assert!(limit.allow(now + Duration::from_secs(9), 300));
    }
}
