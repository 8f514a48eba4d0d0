//! How the commands talk: to people on standard error, to programs as JSON lines on standard output.
//!
//! Names that came from a network or a file system are printed through [`escaped`], so that no name moves the
//! cursor, changes colours or reverses the direction of the text around it. It does *not* decide what happens, only
//! how it is said.

mod narrator;
mod progress;
mod quota;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use fulmar_proto::hpudp::{Phase, Snapshot};
use serde::Serialize;

pub(crate) use narrator::{Narrator, Role};
use progress::Progress;
pub(crate) use progress::short_time;
use quota::Quota;

/// How to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A progress bar on a terminal.
    Bar,
    /// A plain line every second, where standard error is no terminal.
    Lines,
    /// JSON, one object per line on standard output; nothing else but errors.
    Json,
    /// Nothing but errors.
    Quiet,
}

impl Voice {
    /// What the options and the terminal ask for.
    pub(crate) fn chosen(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::Quiet,
            (false, false) if io::stderr().is_terminal() => Self::Bar,
            (false, false) => Self::Lines,
        }
    }

    /// Says a sentence to people.
    pub(crate) fn say(self, sentence: &str) {
        if matches!(self, Self::Bar | Self::Lines) {
            // Nobody reads standard error any more: not a reason to stop a transfer.
            let _ = writeln!(io::stderr(), "{sentence}");
        }
    }

    /// Emits an event to programs.
    pub(crate) fn emit(self, event: &Event<'_>) {
        if self == Self::Json {
            print_json(event);
        }
    }
}

/// Writes what was asked for to standard output.
pub(crate) fn print(text: &str) {
    // A reader that went away has read enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes one JSON object on a line of its own to standard output.
pub(crate) fn print_json(object: &impl Serialize) {
    let line = serde_json::to_string(object).expect("these structures have only string keys");
    print(&(line + "\n"));
}

/// One line of JSON. Both ends of a transfer use the same names.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// A receiver serves.
    Ready {
        /// The address.
        listen: SocketAddr,
        /// Fingerprint of the key that it proves to hold.
        identity: String,
    },
    /// Figures for those who watch are served.
    Metrics {
        /// The address.
        listen: SocketAddr,
    },
    /// More happened of which strangers can make much, and was not said.
    Unsaid {
        /// How many events.
        count: u64,
    },
    /// What the kernel granted the socket, in bytes.
    Socket {
        /// Receive buffer.
        recv_buffer: usize,
        /// Send buffer.
        send_buffer: usize,
        /// What was asked for each.
        wanted: usize,
    },
    /// Both sides agreed on a transfer.
    Connected {
        /// Name.
        file: Cow<'a, str>,
        /// The other side.
        peer: SocketAddr,
        /// Bytes.
        size: u64,
        /// Whether contents are encrypted.
        encrypted: bool,
        /// Fingerprint of the key that the peer proves to hold.
        identity: Option<String>,
    },
    /// An interrupted transfer goes on.
    Resumed {
        /// The other side.
        peer: SocketAddr,
        /// Bytes that were here already.
        bytes: u64,
    },
    /// What is neither file nor folder is not sent.
    LeftOut {
        /// Where it is.
        path: Cow<'a, str>,
        /// What it is.
        what: &'a str,
    },
    /// The peer takes single files only: names, sizes and hashes can be read on the way, and nothing is resumed.
    SingleFiles {
        /// The other side.
        peer: SocketAddr,
    },
    /// The peer does not encrypt, and the file goes in the clear because that was allowed.
    Unencrypted {
        /// Name.
        file: Cow<'a, str>,
        /// The other side.
        peer: SocketAddr,
    },
    /// How a transfer stands, once a second and whenever its phase changes.
    Progress(Figures<'a>),
    /// Everything of one session is there, verified.
    Done {
        /// The other side.
        peer: SocketAddr,
        /// How many files.
        files: u64,
        /// In hexadecimal: BLAKE3 of the contents, 64 digits; of a single file of v5.0 xxHash64, 16 digits.
        hash: String,
        /// Where it was stored (receiver) or read (sender); null when it was read in several places.
        path: Option<Cow<'a, str>>,
        /// Fingerprint of the key that the peer proved to hold; null, and nobody knows who it was.
        identity: Option<String>,
        /// Of the bytes of `size`, those that an earlier attempt had brought.
        resumed: u64,
        /// Bits of the others a second, over the whole session.
        average_bps: u64,
        /// Final figures.
        #[serde(flatten)]
        figures: Figures<'a>,
    },
    /// A file is not there.
    Failed {
        /// Its name, if it came to that.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<Cow<'a, str>>,
        /// What failed.
        error: String,
        /// Why.
        because: Vec<String>,
        /// The exit code that says the same.
        exit: u8,
    },
}

/// Figures of one transfer, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Figures<'a> {
    file: Cow<'a, str>,
    size: u64,
    done: u64,
    phase: &'static str,
    elapsed_s: f64,
    goodput_bps: u64,
    pacing_bps: u64,
    rtt_ms: Option<f64>,
    min_rtt_ms: Option<f64>,
    loss: f64,
    parity_per_block: u8,
    data: u64,
    parity: u64,
    repaired: u64,
    retransmitted: u64,
    duplicates: u64,
    encrypted: bool,
}

impl<'a> Figures<'a> {
    /// The figures of the transfer of this file.
    pub(crate) fn new(file: impl Into<Cow<'a, str>>, snapshot: &Snapshot) -> Self {
        let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Self {
            file: file.into(),
            size: snapshot.size,
            done: snapshot.done,
            phase: phase_word(snapshot.phase),
            elapsed_s: snapshot.elapsed.as_secs_f64(),
            goodput_bps: snapshot.goodput.bits_per_sec(),
            pacing_bps: snapshot.pacing.bits_per_sec(),
            rtt_ms: snapshot.rtt.map(millis),
            min_rtt_ms: snapshot.min_rtt.map(millis),
            loss: snapshot.loss,
            parity_per_block: snapshot.parity,
            data: snapshot.data,
            parity: snapshot.parities,
            repaired: snapshot.repaired,
            retransmitted: snapshot.retransmitted,
            duplicates: snapshot.duplicates,
            encrypted: snapshot.encrypted,
        }
    }
}

/// The name of a phase, for people and programs alike.
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Transferring => "transferring",
        Phase::Probing => "probing",
        Phase::Repairing => "repairing",
        Phase::Verifying => "verifying",
        Phase::Lingering => "lingering",
    }
}

/// A foreign name as one harmless line: what a terminal would obey, and bytes that are no UTF-8, as escapes. Different
/// names look different.
pub(crate) fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text += &harmless(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

/// A sentence that may contain foreign names, as one line that moves no cursor.
pub(crate) fn harmless(sentence: &str) -> String {
    let mut text = String::new();
    for c in sentence.chars() {
        match c {
            '\'' | '"' | '\\' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "report.pdf",
            "it's \"fine\".txt",
            "Zażółć gęślą.tar",
            "写真.jpg",
            "a b",
        ] {
            assert_eq!(escaped(name.as_bytes()), name);
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(escaped(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(escaped(b"a\nb\rc\0d"), "a\\nb\\rc\\0d");
        assert_eq!(escaped("exe.\u{202e}fdp".as_bytes()), "exe.\\u{202e}fdp");
        assert_eq!(escaped(b"\xff\xfe.txt"), "\\xff\\xfe.txt");
        assert_eq!(escaped("a\u{9b}2J".as_bytes()), "a\\u{9b}2J");
    }

    proptest! {
        #[test]
        fn no_bytes_give_a_control_character(name in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!escaped(&name).chars().any(char::is_control));
        }

        #[test]
        fn different_names_look_different(a in "\\PC{0,8}|[\\\\x0-9a-f]{0,8}", b in "\\PC{0,8}|[\\\\x0-9a-f]{0,8}") {
            prop_assert_eq!(a == b, escaped(a.as_bytes()) == escaped(b.as_bytes()));
        }
    }

    #[test]
    fn a_line_of_json_has_one_set_of_names() {
        let figures = Figures::new(
            "a\nb",
            &Snapshot {
                size: 10,
                ..Snapshot::default()
            },
        );
        let peer = SocketAddr::from(([192, 0, 2, 7], 9000));
        let done = Event::Done {
            peer,
            files: 1,
            hash: format!("{:016x}", 7),
            path: Some("a".into()),
            identity: None,
            resumed: 0,
            average_bps: 1,
            figures,
        };
        let line = serde_json::to_string(&done).unwrap();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["event"], "done");
        assert_eq!(value["file"], "a\nb");
        assert_eq!(value["size"], 10);
        assert_eq!(value["hash"], "0000000000000007");
        let progress = Event::Progress(Figures::new("a", &Snapshot::default()));
        let progress = serde_json::to_value(&progress).unwrap();
        for key in progress.as_object().unwrap().keys() {
            assert!(
                value.get(key).is_some(),
                "{key} is in progress and not in done"
            );
        }
    }
}
