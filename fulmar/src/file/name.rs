//! Names from strangers: what a peer may call a file (HP-UDP 12.3).
//!
//! The rules are the same for a name on its way out, so that nothing is offered that an equal peer must refuse. They do
//! *not* ask whether the file exists.

/// Takes the base name out of `raw` and checks it.
pub(super) fn check(raw: &[u8]) -> Result<String, NameError> {
    let base = raw.rsplit(separates).next().unwrap_or_default();
    component(base).map(ToOwned::to_owned)
}

/// Checks one component of a path.
pub(crate) fn component(raw: &[u8]) -> Result<&str, NameError> {
    if raw.is_empty() {
        return Err(NameError::Empty);
    }
    if raw == b"." || raw == b".." {
        return Err(NameError::Dots);
    }
    if raw.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    if raw.iter().any(separates) {
        return Err(NameError::Separator);
    }
    let name = std::str::from_utf8(raw).map_err(|_| NameError::Encoding)?;
    if name.chars().any(|c| c.is_control() || deceives(c)) {
        return Err(NameError::Character);
    }
    if is_temporary(name) || bundle_id(name).is_some() {
        return Err(NameError::Temporary);
    }
    Ok(name)
}

/// A name for a file under construction: hidden, beside its final name, never longer than a name may be.
pub(super) fn temporary(name: &str, random: u64) -> String {
    let keep = name.floor_char_boundary(NAME_MAX - TEMPORARY_EXTRA);
    format!(".{}.{random:016x}{TEMPORARY_END}", &name[..keep])
}

/// The directory where a bundle is put together, beside what it will be: hidden, and the same for the same bundle.
pub(crate) fn bundle(id: &str) -> String {
    format!("{BUNDLE_START}{id}{TEMPORARY_END}")
}

/// Whether this is the name of a file under construction.
pub(crate) fn is_temporary(name: &str) -> bool {
    let hex = name
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix(TEMPORARY_END));
    hex.and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(_, hex)| is_hex(hex, 16))
}

/// The identity in the name of a directory where a bundle is put together.
pub(crate) fn bundle_id(name: &str) -> Option<&str> {
    let id = name
        .strip_prefix(BUNDLE_START)?
        .strip_suffix(TEMPORARY_END)?;
    is_hex(id, 64).then_some(id)
}

/// Why a name is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing after the last separator.
    #[error("the file name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("the file name is a directory reference")]
    Dots,
    /// More than 255 bytes.
    #[error("the file name is longer than 255 bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("the file name is not UTF-8")]
    Encoding,
    /// Control characters, line separators or marks that change the direction of writing.
    #[error("the file name has control characters or direction marks")]
    Character,
    /// A slash or a backslash, where one component is wanted: one system or another takes it for a directory.
    #[error("the file name has a slash or a backslash")]
    Separator,
    /// The shape of a file under construction.
    #[error("the file name is one of a file under construction")]
    Temporary,
}

fn separates(byte: &u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Characters that make a name look like another one: direction marks and line separators.
fn deceives(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Longest file name in bytes, here and on every common file system.
const NAME_MAX: usize = 255;
const TEMPORARY_END: &str = ".part";
const BUNDLE_START: &str = ".fulmar-";
/// Two dots, 16 hexadecimal digits and the end.
const TEMPORARY_EXTRA: usize = 2 + 16 + TEMPORARY_END.len();

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lose_their_directories() {
        for (raw, base) in [
            ("report.bin", "report.bin"),
            ("/etc/passwd", "passwd"),
            ("..\\..\\windows\\win.ini", "win.ini"),
            ("a/b\\c", "c"),
            (".hidden", ".hidden"),
            ("...", "..."),
            ("naïve résumé 文件.tar.gz", "naïve résumé 文件.tar.gz"),
            ("x.part", "x.part"),
            (".x.part", ".x.part"),
        ] {
            assert_eq!(check(raw.as_bytes()).as_deref(), Ok(base));
        }
    }

    #[test]
    fn unusable_names_are_refused_with_their_reason() {
        let long = "x".repeat(256);
        for (raw, error) in [
            (&b""[..], NameError::Empty),
            (b"dir/", NameError::Empty),
            (b"\\", NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/..", NameError::Dots),
            (b"a\0b", NameError::Character),
            (b"line\nfeed", NameError::Character),
            (b"\x1b[31mred", NameError::Character),
            (b"\x7f", NameError::Character),
            ("\u{85}".as_bytes(), NameError::Character),
            ("invoice\u{202e}fdp.exe".as_bytes(), NameError::Character),
            ("a\u{2066}b".as_bytes(), NameError::Character),
            (b"\xff\xfe", NameError::Encoding),
            (long.as_bytes(), NameError::TooLong),
            (b".x.0123456789abcdef.part", NameError::Temporary),
            (b"..0123456789ABCDEF.part", NameError::Temporary),
            (bundle(&"0f".repeat(32)).as_bytes(), NameError::Temporary),
        ] {
            assert_eq!(check(raw), Err(error), "{}", raw.escape_ascii());
        }
        for raw in ["a/b", "/a", "a\\b"] {
            assert_eq!(component(raw.as_bytes()), Err(NameError::Separator));
        }
        assert!(check("x".repeat(255).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(raw in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = check(&raw) {
                let path = std::path::Path::new(&name);
                let parts: Vec<_> = path.components().collect();
                prop_assert!(matches!(parts[..], [std::path::Component::Normal(part)] if part == name.as_str()));
                prop_assert!(name.len() <= 255 && !name.contains('\0'));
                prop_assert_eq!(check(name.as_bytes()), Ok(name.clone()), "a checked name stays as it is");
            }
        }

        #[test]
        fn temporary_names_are_ours_and_fit(name in "[a-zß-ÿ文.]{1,200}", random: u64) {
            prop_assume!(name.len() <= 255);
            let temporary = temporary(&name, random);
            prop_assert!(temporary.len() <= 255);
            prop_assert_eq!(check(temporary.as_bytes()), Err(NameError::Temporary));
        }
    }
}
