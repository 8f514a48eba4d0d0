//! Bytes to numbers and back: [`Reader`], [`Writer`].
//!
//! Network order, but for the few fields that a protocol puts on the wire the other way round. Reading is total: too
//! few bytes give `None` and leave the reader where it was. They do *not* check what the numbers mean.

/// Takes fields from the front of a byte string.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes, most significant first.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, most significant first.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, most significant first.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Four bytes, least significant first.
    pub fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, least significant first.
    pub fn u64_le(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    /// The next `N` bytes, by value.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    /// Passes over `n` bytes.
    pub fn skip(&mut self, n: usize) -> Option<()> {
        self.bytes(n).map(|_| ())
    }

    /// Everything that is left; may be empty, and is afterwards.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// How many bytes are left.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// Appends fields to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Writes behind what `buf` holds.
    pub const fn new(buf: &'a mut Vec<u8>) -> Self {
        Self { buf }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.buf.push(value);
    }

    /// Two bytes, most significant first.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Four bytes, most significant first.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Eight bytes, most significant first.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Four bytes, least significant first.
    pub fn u32_le(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes, least significant first.
    pub fn u64_le(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// The bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// `n` zero bytes: padding and reserved fields.
    pub fn zeros(&mut self, n: usize) {
        self.buf.resize(self.buf.len() + n, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_have_their_order() {
        let mut buf = vec![0xaa];
        let mut writer = Writer::new(&mut buf);
        writer.u8(1);
        writer.u16(0x0203);
        writer.u32(0x0405_0607);
        writer.u64(0x0809_0a0b_0c0d_0e0f);
        writer.u32_le(0x1312_1110);
        writer.u64_le(0x1b1a_1918_1716_1514);
        writer.zeros(2);
        writer.bytes(b"end");
        let mut expected = vec![0xaa];
        expected.extend(0x01..=0x1b);
        expected.extend(b"\0\0end");
        assert_eq!(buf, expected);
    }

    #[test]
    fn too_few_bytes_leave_the_reader_where_it_was() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(
            (reader.u32(), reader.u64(), reader.u32_le(), reader.u64_le()),
            (None, None, None, None)
        );
        assert_eq!(
            (reader.bytes(4), reader.bytes(usize::MAX), reader.skip(4)),
            (None, None, None)
        );
        assert_eq!(reader.array::<4>(), None);
        assert_eq!(reader.remaining(), 3);
        assert_eq!(reader.u16(), Some(0x0102));
        assert_eq!(reader.u16(), None);
        assert_eq!((reader.rest(), reader.rest()), (&[3_u8][..], &[][..]));
        assert_eq!((reader.u8(), reader.bytes(0)), (None, Some(&[][..])));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            a: u8, b: u16, c: u32, d: u64, e: u32, f: u64, tail in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut buf = Vec::new();
            let mut writer = Writer::new(&mut buf);
            writer.u8(a);
            writer.u16(b);
            writer.zeros(3);
            writer.u32(c);
            writer.u64(d);
            writer.u32_le(e);
            writer.u64_le(f);
            writer.bytes(&tail);
            let mut reader = Reader::new(&buf);
            prop_assert_eq!((reader.u8(), reader.u16()), (Some(a), Some(b)));
            prop_assert_eq!(reader.skip(3), Some(()));
            prop_assert_eq!((reader.u32(), reader.u64()), (Some(c), Some(d)));
            prop_assert_eq!((reader.u32_le(), reader.u64_le()), (Some(e), Some(f)));
            prop_assert_eq!(reader.remaining(), tail.len());
            prop_assert_eq!(reader.bytes(tail.len()), Some(&tail[..]));
            prop_assert_eq!(reader.remaining(), 0);
        }
    }
}
