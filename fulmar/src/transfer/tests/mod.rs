//! The file side of both handles, against toy endpoints that play the network without one.
#![allow(clippy::unwrap_used)]

mod recv;
mod send;

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fulmar_proto::hpudp::{Command, Event, Failure, Snapshot, Tag};
use fulmar_proto::{Endpoint, Meta, Transmit};

use crate::driver::{self, Handle, Socket};

/// A toy that only has commands and events.
struct Toy<F> {
    events: VecDeque<Event>,
    on_command: F,
}

impl<F: FnMut(Command, &mut VecDeque<Event>)> Endpoint for Toy<F> {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, _: Instant, _: Meta, _: &mut [u8]) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn handle_command(&mut self, _: Instant, command: Command) {
        (self.on_command)(command, &mut self.events);
    }

    fn poll_transmit(&mut self, _: Instant, _: usize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

fn run<F>(events: impl Into<VecDeque<Event>>, on_command: F) -> Handle<Toy<F>>
where
    F: FnMut(Command, &mut VecDeque<Event>) + Send + 'static,
{
    let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    driver::spawn(
        socket,
        Toy {
            events: events.into(),
            on_command,
        },
    )
    .unwrap()
}

fn peer() -> SocketAddr {
    "192.0.2.7:9000".parse().unwrap()
}

fn end(tag: Tag, result: Result<(), Failure>, size: u64) -> [Event; 2] {
    let snapshot = Snapshot {
        size,
        data: 1,
        ..Snapshot::default()
    };
    [
        Event::Finished {
            tag,
            snapshot,
            result,
        },
        Event::Closed { tag },
    ]
}

fn put(place: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = place.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i % 251) as u8).collect()
}
