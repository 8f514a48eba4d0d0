//! The vectors of the specification (21), for the tests of every part.

/// One line of a file of vectors.
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) clause: &'static str,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const HANDSHAKE: &str = include_str!("../../../specs/vectors/srt/handshake.txt");
pub(crate) const DATA: &str = include_str!("../../../specs/vectors/srt/data.txt");
pub(crate) const CONTROL: &str = include_str!("../../../specs/vectors/srt/control.txt");
pub(crate) const ENCRYPTION: &str = include_str!("../../../specs/vectors/srt/encryption.txt");
pub(crate) const FEC: &str = include_str!("../../../specs/vectors/srt/fec.txt");
pub(crate) const MALFORMED: &str = include_str!("../../../specs/vectors/srt/malformed.txt");
pub(crate) const KEYS: &str = include_str!("../../../specs/vectors/srt/keys.txt");

/// Every packet of a file but of [`KEYS`], in its order.
pub(crate) fn packets(file: &'static str) -> impl Iterator<Item = Vector> {
    lines(file).map(|line| {
        let [name, clause, bytes] = line[..] else {
            panic!("not name, clause and bytes: {line:?}")
        };
        let bytes = hex(bytes);
        Vector {
            name,
            clause,
            bytes,
        }
    })
}

/// The packet of this name.
pub(crate) fn packet(file: &'static str, name: &str) -> Vec<u8> {
    let found = packets(file).find(|vector| vector.name == name);
    found.unwrap_or_else(|| panic!("no vector {name}")).bytes
}

/// A line of [`KEYS`].
pub(crate) struct Keys {
    pub(crate) name: &'static str,
    pub(crate) passphrase: &'static str,
    pub(crate) kek: Vec<u8>,
    /// Even and odd.
    pub(crate) seks: [Option<Vec<u8>>; 2],
    pub(crate) km: Vec<u8>,
}

/// Every line of [`KEYS`].
pub(crate) fn keys() -> impl Iterator<Item = Keys> {
    lines(KEYS).map(|line| {
        let [name, passphrase, kek, even, odd, km] = line[..] else {
            panic!("not name, passphrase, three keys and KM: {line:?}")
        };
        Keys {
            name,
            passphrase,
            kek: hex(kek),
            seks: [even, odd].map(|sek| (sek != "-").then(|| hex(sek))),
            km: hex(km),
        }
    })
}

pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn lines(file: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    file.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
}
