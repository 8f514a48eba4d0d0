//! A daemon alone, without a network, that does whatever it is asked; and the keys of one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulmar_proto::crypto::Secret;
use fulmar_proto::hpudp::{Command, Config, Endpoint, Event};
use fulmar_proto::{Endpoint as _, Meta};

/// A daemon alone, which serves whatever is asked for and takes whatever is offered; its ledger is that of E1.
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) now: Instant,
    pub(crate) ledger: BTreeMap<SocketAddr, (usize, usize)>,
    pub(crate) said: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) size: u64,
    /// Bytes of the file asked of the application and not answered.
    pub(crate) wanted: usize,
    pub(crate) most_wanted: usize,
    /// Addresses that proved themselves owe nothing.
    pub(crate) proved: Vec<SocketAddr>,
}

impl Server {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            endpoint: Endpoint::new(daemon(), [9; 32]),
            now: Instant::now(),
            ledger: BTreeMap::new(),
            said: Vec::new(),
            size,
            wanted: 0,
            most_wanted: 0,
            proved: Vec::new(),
        }
    }

    pub(crate) fn hear(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.ledger.entry(from).or_default().0 += bytes.len();
        let meta = Meta {
            from,
            socket: 0,
            to_ip: None,
            ecn: None,
        };
        self.endpoint
            .handle_datagram(self.now, meta, &mut bytes.to_vec());
        self.drain();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.endpoint.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn drain(&mut self) {
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                let command = match event {
                    Event::Asked { tag, bundle, .. } => Command::Serve {
                        tag,
                        size: self.size,
                        hash: 1,
                        bundle,
                    },
                    Event::Offered { tag, .. } => Command::Accept { tag },
                    Event::Want {
                        tag, offset, len, ..
                    } => {
                        self.wanted += len;
                        self.most_wanted = self.most_wanted.max(self.wanted);
                        let bytes = vec![7; len];
                        Command::Supply { tag, offset, bytes }
                    }
                    Event::ListAsked { tag, first, .. } => {
                        let lines = (first..500).map(|at| format!("name{at:03}\t{at}\n"));
                        let text = lines.collect::<String>().into_bytes();
                        Command::Listing {
                            tag,
                            total: 500,
                            text,
                        }
                    }
                    Event::Connected { .. }
                    | Event::Listing { .. }
                    | Event::Chunk { .. }
                    | Event::Received { .. }
                    | Event::Progress { .. }
                    | Event::Finished { .. }
                    | Event::Closed { .. } => continue,
                };
                self.endpoint.handle_command(self.now, command);
            }
            let mut buf = Vec::new();
            let Some(transmit) = self.endpoint.poll_transmit(self.now, 1, &mut buf) else {
                return;
            };
            let (heard, said) = self.ledger.entry(transmit.to).or_default();
            *said += buf.len();
            assert!(
                *said <= 3 * *heard || self.proved.contains(&transmit.to),
                "{said} bytes to {} for {heard}",
                transmit.to
            );
            if self.said.len() < 4_000 {
                self.said.push((transmit.to, buf));
            }
        }
    }
}

pub(crate) fn host() -> Secret {
    Secret::from_bytes([7; 32])
}

pub(crate) fn daemon() -> Config {
    Config {
        host_key: Some(Arc::new(host())),
        port: 9000,
        ..Config::default()
    }
}
