//! The Stream ID and its standard form, `#!::key=value,..` (15.1).
//!
//! It does *not* decide what a caller may do, and it proves nothing: a Stream ID says who somebody claims to be (15.1.7).

use super::packet::STREAM_ID_MAX;

/// What a Stream ID says. Values are bytes as the caller wrote them, hostile until checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamId<'a> {
    /// `u`: who calls.
    pub user: Option<&'a [u8]>,
    /// `r`: the stream asked for. All of a text that has no standard form.
    pub resource: Option<&'a [u8]>,
    /// `h`: whose resources.
    pub host: Option<&'a [u8]>,
    /// `s`: a session, chosen by the caller.
    pub session: Option<&'a [u8]>,
    /// `t`: what is exchanged.
    pub content: Content,
    /// `m`: which way.
    pub access: Access,
    /// Keys of the application's own, in order.
    pub others: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> StreamId<'a> {
    /// Reads a text; `None` for the nested form `#!:{..}`, which is the application's own business (15.1.4). What is no
    /// standard form is a resource as it stands (15.1.5).
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let form = ["#!:", "%23!:"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix.as_bytes()));
        match form.and_then(|form| form.split_first()) {
            Some((b'{', _)) => None,
            Some((b':', items)) => Some(Self::standard(items).unwrap_or_else(|| Self::plain(text))),
            _ => Some(Self::plain(text)),
        }
    }

    /// A resource, and nothing else said.
    pub fn plain(text: &'a [u8]) -> Self {
        Self {
            resource: (!text.is_empty()).then_some(text),
            ..Self::default()
        }
    }

    /// The standard form, what is the default left out; `None` when it would be longer than 512 bytes, when a value
    /// has a comma, or when a key of the application's has a comma or `=`, is empty, or is one of ours.
    pub fn write(&self) -> Option<Vec<u8>> {
        let content = (self.content != Content::default()).then(|| self.content.word());
        let access = (self.access != Access::default()).then(|| self.access.word());
        let own = [
            (&b"u"[..], self.user),
            (b"r", self.resource),
            (b"h", self.host),
            (b"s", self.session),
            (b"t", content),
            (b"m", access),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let mut out = b"#!::".to_vec();
        for (key, value) in own.chain(self.others.iter().copied()) {
            if out.len() > 4 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            out.push(b'=');
            out.extend_from_slice(value);
        }
        // Whatever would be read otherwise must not be written.
        let same = StreamId::parse(&out).as_ref() == Some(self);
        (same && out.len() <= STREAM_ID_MAX).then_some(out)
    }

    fn standard(items: &'a [u8]) -> Option<Self> {
        let mut id = Self::default();
        let (mut content, mut access) = (None, None);
        for item in items.split(|byte| *byte == b',') {
            let equals = item.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&item[..equals], &item[equals + 1..]);
            // The first counts (15.1.2).
            match key {
                b"u" => _ = id.user.get_or_insert(value),
                b"r" => _ = id.resource.get_or_insert(value),
                b"h" => _ = id.host.get_or_insert(value),
                b"s" => _ = id.session.get_or_insert(value),
                b"t" => _ = content.get_or_insert(Content::from_word(value)?),
                b"m" => _ = access.get_or_insert(Access::from_word(value)?),
                _ if id.others.iter().any(|(other, _)| *other == key) => {}
                _ => id.others.push((key, value)),
            }
        }
        id.content = content.unwrap_or_default();
        id.access = access.unwrap_or_default();
        Some(id)
    }
}

/// What is exchanged (15.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// `stream`: live media.
    #[default]
    Stream,
    /// `file`.
    File,
    /// `auth`: nothing but who is who.
    Auth,
}

impl Content {
    const ALL: [Self; 3] = [Self::Stream, Self::File, Self::Auth];

    const fn word(self) -> &'static [u8] {
        match self {
            Self::Stream => b"stream",
            Self::File => b"file",
            Self::Auth => b"auth",
        }
    }

    fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// Which way data is to flow (15.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// `request`: the caller receives.
    #[default]
    Request,
    /// `publish`: the caller sends.
    Publish,
    /// `bidirectional`.
    Both,
}

impl Access {
    const ALL: [Self; 3] = [Self::Request, Self::Publish, Self::Both];

    const fn word(self) -> &'static [u8] {
        match self {
            Self::Request => b"request",
            Self::Publish => b"publish",
            Self::Both => b"bidirectional",
        }
    }

    fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> StreamId<'_> {
        StreamId::parse(text.as_bytes()).expect("not nested")
    }

    #[test]
    fn the_standard_form() {
        let text = "#!::u=alice,r=cam 1=a,m=publish,t=file,h=studio,s=9,u=bob,x=1,x=2";
        let expected = StreamId {
            user: Some(b"alice"),
            resource: Some(b"cam 1=a"),
            host: Some(b"studio"),
            session: Some(b"9"),
            content: Content::File,
            access: Access::Publish,
            others: vec![(b"x", b"1")],
        };
        assert_eq!(parse(text), expected, "15.1.2: the first counts");
        let escaped = text.replacen('#', "%23", 1);
        assert_eq!(parse(&escaped), expected, "15.1.6: as it may arrive");
        let written = expected.write().expect("short, and without commas");
        assert_eq!(
            String::from_utf8_lossy(&written),
            "#!::u=alice,r=cam 1=a,h=studio,s=9,t=file,m=publish,x=1"
        );
        let request = parse("#!::r=x");
        assert_eq!(
            (request.content, request.access),
            (Content::Stream, Access::Request)
        );
    }

    #[test]
    fn what_is_no_standard_form_is_a_resource() {
        for text in [
            "live/stream",
            "#!:",
            "#!::",
            "#!::u",
            "#!::r=x,",
            "#!::r=x,u",
            "#!::m=steal",
            "#!::m=publish,m=steal",
            "#!::t=",
            "!::r=x",
            "#!:r=x",
        ] {
            assert_eq!(parse(text), StreamId::plain(text.as_bytes()), "{text}");
        }
        assert_eq!(parse(""), StreamId::default());
        assert_eq!(StreamId::parse(b"#!:{r=x,(u=y)}"), None, "15.1.4: nested");
    }

    #[test]
    fn what_would_be_read_otherwise_is_not_written() {
        let with = |user: &'static [u8], others: &[(&'static [u8], &'static [u8])]| StreamId {
            user: Some(user),
            others: others.to_vec(),
            ..StreamId::default()
        };
        assert!(with(b"a=b", &[(b"x", b"=")]).write().is_some());
        for refused in [
            with(b"a,m=publish", &[]),
            with(b"a", &[(b"m", b"publish")]),
            with(b"a", &[(b"x=y", b"1")]),
            with(b"a", &[(b"x,y", b"1")]),
            with(b"a", &[(b"x", b"1"), (b"x", b"2")]),
            with(&[b'a'; 507], &[]),
        ] {
            assert_eq!(refused.write(), None, "{refused:?}");
        }
        let longest = with(&[b'a'; 506], &[]).write();
        assert_eq!(longest.map(|text| text.len()), Some(STREAM_ID_MAX));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(text in "(#!:|%23!:)?:?([urhstmx]{0,2}=(publish|file|[a-z]{0,3}),?){0,6}") {
            let Some(id) = StreamId::parse(text.as_bytes()) else {
                return Ok(());
            };
            if let Some(written) = id.write() {
                prop_assert_eq!(StreamId::parse(&written), Some(id));
            }
        }
    }
}
