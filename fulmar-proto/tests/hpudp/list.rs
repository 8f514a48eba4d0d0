//! The list of a daemon, asked for and told (HP-UDP 18.6).
use std::net::SocketAddr;

use crate::common::server::Server;
use crate::common::{A, B, packet, u32_at, u64_at};
use fulmar_proto::hpudp::{Command, Event, Failure, Tag};
use fulmar_proto::{Endpoint as _, Meta};

const MALLORY: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)),
    666,
);

#[test]
fn the_list_comes_in_pages_and_is_paid_for() {
    let mut server = Server::new(1);
    let mut padded = packet(0x0d, 5, (0, 0), 0, 0, 0, &[]);
    padded.resize(1000, 0);
    let (mut first, mut lines) = (0, Vec::new());
    for page in 0..50u32 {
        padded[1..5].copy_from_slice(&page.to_be_bytes());
        padded[5..13].copy_from_slice(&u64::to_be_bytes(first));
        server.hear(A, &padded);
        let (to, answer) = server.said.pop().unwrap();
        assert_eq!((to, answer[0], u64_at(&answer, 5)), (A, 0x0e, first));
        assert_eq!(u64_at(&answer, 13), 500, "the total");
        let text = std::str::from_utf8(&answer[32..]).unwrap();
        assert!(text.ends_with('\n'), "whole lines");
        lines.extend(text.lines().map(str::to_owned));
        first = lines.len() as u64;
        if first == 500 {
            break;
        }
    }
    let want: Vec<_> = (0..500).map(|at| format!("name{at:03}\t{at}")).collect();
    assert_eq!(lines, want);
    // Unpadded, as v5.2 asks: as many lines as 96 bytes hold.
    server.hear(MALLORY, &packet(0x0d, 9, (0, 0), 0, 0, 0, &[]));
    let (_, answer) = server.said.pop().unwrap();
    assert!(answer.len() <= 96 && answer.len() > 60, "{}", answer.len());
}

/// Our client asks: for a page, three times, and then no more; and takes the page of one who knows none.
#[test]
fn a_list_is_asked_for_three_times() {
    for answered in [None, Some((7, 500)), Some((0, 0)), Some((6, 500))] {
        let mut client = Server::new(1);
        let command = Command::List {
            tag: Tag(1),
            to: B,
            first: 7,
        };
        client.proved.push(B);
        client.endpoint.handle_command(client.now, command);
        client.drain();
        let id = u32_at(&client.said[0].1, 1);
        assert_eq!(client.said[0].1.len(), 1000, "padded");
        if let Some(at) = answered {
            let answer = packet(0x0e, id, at, 4, 0, 0, b"x\t1\n");
            let meta = |from| Meta {
                from,
                to_ip: None,
                ecn: None,
            };
            client
                .endpoint
                .handle_datagram(client.now, meta(MALLORY), &mut answer.clone());
            assert!(client.endpoint.poll_event().is_none(), "from elsewhere");
            client
                .endpoint
                .handle_datagram(client.now, meta(B), &mut answer.clone());
        }
        let mut ended = Vec::new();
        while let Some(at) = client.endpoint.poll_timeout() {
            client.now = client.now.max(at);
            client.endpoint.handle_timeout(client.now);
            let mut buf = Vec::new();
            if client
                .endpoint
                .poll_transmit(client.now, 1, &mut buf)
                .is_some()
            {
                client.said.push((B, buf));
            }
            ended.extend(std::iter::from_fn(|| client.endpoint.poll_event()));
        }
        ended.extend(std::iter::from_fn(|| client.endpoint.poll_event()));
        let known = matches!(answered, Some((7, 500) | (0, 0)));
        match ended.first() {
            Some(Event::Listing {
                first, total, text, ..
            }) if known => {
                assert_eq!(
                    (Some((*first, *total)), &text[..]),
                    (answered, &b"x\t1\n"[..])
                );
                assert_eq!(client.said.len(), 1);
            }
            Some(Event::Finished { result, .. }) if !known => {
                assert_eq!(*result, Err(Failure::NoAnswer));
                assert_eq!(client.said.len(), 3);
            }
            other => panic!("{answered:?}: {other:?}"),
        }
        assert!(matches!(ended.last(), Some(Event::Closed { .. })));
        assert_eq!(client.endpoint.sessions(), 0);
    }
}
