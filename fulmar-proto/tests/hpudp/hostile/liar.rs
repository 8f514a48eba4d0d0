//! A receiver that lies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fulmar_proto::engine::Bitrate;
use fulmar_proto::hpudp::{Command, Config, Control, Event};
use fulmar_proto::sim::Rng;
use fulmar_proto::{Meta, Transmit};

use super::MS;
use super::memory::measured;
use crate::common::{A, Host, Pair, kind, link, packet, seed, u32_at, u64_at};

/// A receiver that lies: a heartbeat every millisecond, each claiming 4 GB/s, no loss, and either the first chunks
/// missing or everything there. Its echoes are true, or nothing would be believed at all.
struct Liar {
    /// Claims to lack as many chunks as fit, and never anything above.
    needy: bool,
    id: u32,
    echo: u64,
    highest: u64,
    beat: Option<Instant>,
    due: bool,
}

impl fulmar_proto::Endpoint for Liar {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, _: Meta, bytes: &mut [u8]) {
        if bytes[0] == kind::DATA {
            self.id = u32_at(bytes, 1);
            self.highest = self.highest.max(u64_at(bytes, 5));
            self.echo = u64_at(bytes, 24);
            self.beat.get_or_insert(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.due = self.beat.is_some_and(|at| at <= now);
        if self.due {
            self.beat = Some(now + MS);
        }
    }

    fn handle_command(&mut self, _: Instant, _: Command) {}

    fn poll_transmit(&mut self, _: Instant, _: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        let holes = if self.needy { self.highest.min(166) } else { 0 };
        let front = if self.needy { 0 } else { self.highest };
        let mut body = [u32::MAX.to_be_bytes(); 2].concat();
        body.extend([0, 0]);
        body.extend(self.echo.to_be_bytes());
        body.extend([0; 8]);
        body.extend(front.to_be_bytes());
        body.extend((holes as u16).to_be_bytes());
        body.extend((0..holes).flat_map(u64::to_be_bytes));
        let bytes = packet(kind::HEARTBEAT, self.id, (0, 0), body.len(), 0, 0, &body);
        buf.extend_from_slice(&bytes);
        Some(Transmit {
            to: A,
            from_ip: None,
            ecn: None,
            len: bytes.len(),
            segment: None,
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.beat
    }
}

/// E6: a repair leaves once in a round trip and a quarter however often it is asked for, memory is the window's, and a
/// limit is a limit. Without one, a receiver that claims everything can make the sender overrun the path: nothing in
/// v5.0 tells its claims from those of a faster path.
#[test]
fn a_lying_receiver_gains_nothing() {
    for control in [Control::Delivery, Control::Hpudp] {
        for needy in [true, false] {
            for max_rate in [None, Some(Bitrate::from_bits_per_sec(40_000_000))] {
                let ((), peak, _) = measured(|| lie(control, needy, max_rate));
                println!("{control:?}, needy {needy}, limit {max_rate:?}: peak {peak} bytes");
                // 65,500 chunks, and the marks of four times as many packets while their ring doubles.
                assert!(peak < 128 << 20, "{peak} bytes");
            }
        }
    }
}

fn lie(control: Control, needy: bool, max_rate: Option<Bitrate>) {
    let start = Instant::now();
    let config = Config {
        control,
        max_rate,
        ..Config::default()
    };
    let liar = Liar {
        needy,
        id: 0,
        echo: 0,
        highest: 0,
        beat: None,
        due: false,
    };
    let sender = Host::fulmar(start, config, &mut Rng::new(seed(1)));
    let hosts = (sender, Host::scripted(start, Box::new(liar)));
    let link = link(100, 20, 0.0);
    let mut pair = Pair::new(start, 1, hosts, (link.clone(), link), 1 << 40);
    pair.send(false);
    let mut repairs = BTreeMap::<u64, Vec<Duration>>::new();
    for _ in 0..500 {
        pair.run_for(10 * MS);
        let host = pair.net.node_mut(pair.a);
        host.tapping = true;
        for sent in host.sent.drain(..) {
            let seq = u64_at(&sent.bytes, 5);
            if sent.bytes[0] == kind::DATA && seq < 166 {
                repairs.entry(seq).or_default().push(sent.at);
            }
        }
    }
    let offered = pair.net.link(pair.up).stats().bytes_offered;
    let rate = offered as f64 * 8.0 / 5.0 / 1e6;
    println!("{rate:.0} Mbit/s offered to a path of 100");
    if let Some(limit) = max_rate {
        let limit = limit.bits_per_sec() as f64 / 1e6;
        assert!(rate < 1.05 * limit, "{rate} Mbit/s");
    }
    for (seq, times) in repairs {
        let soonest = times.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(
            soonest.is_none_or(|gap| gap >= 20 * MS),
            "chunk {seq} after {soonest:?}"
        );
    }
}
