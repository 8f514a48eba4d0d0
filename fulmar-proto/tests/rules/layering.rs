//! Who may use whom inside the pure crate, and what none of it may name. Reads the sources, comments, strings and
//! test modules left out. It does not see through a renamed type; `clippy.toml` does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Modules that protocols build on. Everything else beside `lib.rs` is a protocol.
const SHARED: [&str; 4] = ["crypto", "engine", "fec", "sim"];
/// Shared modules that know no protocol. The simulator may name one, as a test does.
const FOUNDATION: [&str; 3] = ["crypto", "engine", "fec"];
/// What would let a state machine see the world.
const IMPURE: [&str; 9] = [
    "Instant::now",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::time::SystemTime",
];

#[test]
fn protocols_do_not_use_each_other_and_the_foundation_uses_none() {
    let sources = sources();
    let protocols = protocols(&sources);
    assert!(protocols.contains("hpudp"), "found only {protocols:?}");
    for Source { module, code } in &sources {
        let broken = forbidden(code, module, &protocols);
        assert!(broken.is_empty(), "{} uses {broken:?}", module.join("::"));
    }
    let reads = |module: &str| {
        sources
            .iter()
            .any(|source| roots(&source.code, &source.module).contains(module))
    };
    assert!(
        reads("engine"),
        "no file uses the engine, so the reader must be blind"
    );
}

#[test]
fn nothing_names_a_clock_a_socket_a_file_or_a_thread() {
    for Source { module, code } in sources() {
        let named = impurities(&code);
        assert!(named.is_empty(), "{} names {named:?}", module.join("::"));
    }
}

#[test]
fn the_reader_sees_through_spellings() {
    let protocols = ["hpudp", "srt"].map(str::to_owned).into();
    let broken = |module: &str, text: &str| {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        forbidden(&code_of(text), &module, &protocols)
    };
    assert_eq!(
        broken("srt::sender", "use crate::hpudp::Config;"),
        ["hpudp"]
    );
    assert_eq!(
        broken(
            "srt::sender",
            "use crate::{engine::{Pacer, Bytes}, hpudp::{self}};"
        ),
        ["hpudp"]
    );
    assert_eq!(
        broken("srt::sender", "use crate::{\n    engine,\n    hpudp,\n};"),
        ["hpudp"]
    );
    assert_eq!(
        broken("srt::sender", "fn f(x: crate :: hpudp::Config) {}"),
        ["hpudp"]
    );
    assert_eq!(broken("srt::sender", "use super::super::hpudp;"), ["hpudp"]);
    assert_eq!(broken("srt", "use super::hpudp::Config as C;"), ["hpudp"]);
    assert_eq!(broken("srt", "use fulmar_proto::hpudp;"), ["hpudp"]);
    assert_eq!(
        broken("engine::pacer", "pub use crate::srt::Rate;"),
        ["srt"]
    );
    assert_eq!(broken("fec", "use crate::{crypto, srt as other};"), ["srt"]);
    assert_eq!(
        broken(
            "srt",
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::hpudp;"
        ),
        ["hpudp"]
    );
    assert_eq!(
        broken("srt", "#[cfg(test)]\nmod tests;\nuse crate::hpudp;"),
        ["hpudp"]
    );
    assert_eq!(
        broken(
            "srt",
            r#"fn f<'a>(x: &'a str) { g('"', '\'', b"\"") } use crate::hpudp;"#
        ),
        ["hpudp"]
    );

    assert!(
        broken(
            "srt::sender",
            "use crate::srt::Config; use crate::engine::Pacer;"
        )
        .is_empty()
    );
    assert!(
        broken("srt::sender", "use super::hpudp;").is_empty(),
        "a module of its own"
    );
    assert!(
        broken(
            "srt",
            "// use crate::hpudp;\n/// [`crate::hpudp`]\n/* crate::hpudp */"
        )
        .is_empty()
    );
    assert!(
        broken(
            "srt",
            r##"fn f() { g("crate::hpudp", '"', r#"crate::hpudp"#) }"##
        )
        .is_empty()
    );
    assert!(
        broken(
            "srt",
            "#[cfg(test)]\nmod tests { use crate::hpudp; fn f() {} }"
        )
        .is_empty()
    );
    assert!(
        broken("sim", "use crate::hpudp;").is_empty(),
        "the simulator may"
    );

    let impure = |text: &str| impurities(&code_of(text));
    assert_eq!(
        impure("use std::net::{SocketAddr, UdpSocket};"),
        ["std::net::UdpSocket"]
    );
    assert_eq!(
        impure("use std::{fs, thread::{self}};"),
        ["std::fs", "std::thread"]
    );
    assert_eq!(
        impure("fn f() { let t = std::time::Instant::now(); }"),
        ["Instant::now"]
    );
    assert_eq!(
        impure("fn f() { let t = Instant::now(); }"),
        ["Instant::now"]
    );
    assert_eq!(
        impure("use std::time::{Instant, SystemTime};"),
        ["std::time::SystemTime"]
    );
    assert_eq!(impure("fn f() { ::std::fs::read(p) }"), ["std::fs"]);
    assert!(impure("use std::time::Instant; mod fs {} fn f(now: Instant) {}").is_empty());
    assert!(impure("#[cfg(test)]\nmod tests { use std::fs; }").is_empty());
}

/// One file: its module path, empty for `lib.rs`, and its [code](code_of).
struct Source {
    module: Vec<String>,
    code: String,
}

/// Every Rust file of the crate.
fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![src.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of src is readable") {
            let path = entry.expect("a directory of src is readable").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path
                    .strip_prefix(&src)
                    .expect("below src")
                    .with_extension("");
                let names = inside
                    .iter()
                    .map(|name| name.to_string_lossy().into_owned());
                let mut module: Vec<_> = names.collect();
                module.pop_if(|last| last == "mod" || last == "lib");
                let text = fs::read_to_string(&path).expect("a source file is text");
                found.push(Source {
                    module,
                    code: code_of(&text),
                });
            }
        }
    }
    found
}

fn protocols(sources: &[Source]) -> BTreeSet<String> {
    let roots = sources.iter().filter_map(|source| source.module.first());
    roots
        .filter(|root| !SHARED.contains(&root.as_str()))
        .cloned()
        .collect()
}

/// The protocols that a module names and may not.
fn forbidden(code: &str, module: &[String], protocols: &BTreeSet<String>) -> Vec<String> {
    let Some(own) = module.first() else {
        return Vec::new();
    };
    if !protocols.contains(own) && !FOUNDATION.contains(&own.as_str()) {
        return Vec::new();
    }
    let named = roots(code, module);
    named
        .into_iter()
        .filter(|root| root != own && protocols.contains(root))
        .collect()
}

/// The top-level modules that a module names, from the root or by climbing to it.
fn roots(code: &str, module: &[String]) -> BTreeSet<String> {
    let climb = "super::".repeat(module.len());
    let mut named = BTreeSet::new();
    for path in paths(code) {
        for prefix in ["crate::", "fulmar_proto::", &climb] {
            let root = path
                .strip_prefix(prefix)
                .and_then(|rest| rest.split("::").next());
            named.extend(root.map(str::to_owned));
        }
    }
    named
}

/// What of [`IMPURE`] the code names.
fn impurities(code: &str) -> Vec<&'static str> {
    let paths: Vec<_> = paths(code)
        .into_iter()
        .map(|path| format!("::{path}::"))
        .collect();
    let named = |needle: &&str| {
        paths
            .iter()
            .any(|path| path.contains(&format!("::{needle}::")))
    };
    IMPURE.into_iter().filter(named).collect()
}

/// Every path in the code, the members of a group each written out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        rest = take_path(&rest[start..], &mut found);
    }
    found
}

/// Reads the path or group that `text` begins with into `found`; returns what follows.
fn take_path<'a>(text: &'a str, found: &mut Vec<String>) -> &'a str {
    let mut path = String::new();
    let mut rest = text;
    loop {
        let word = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        path.push_str(&rest[..word]);
        rest = rest[word..].trim_start();
        let after = rest.strip_prefix("::").map(str::trim_start);
        match after {
            Some(after) if after.starts_with(is_word) => {
                path.push_str("::");
                rest = after;
            }
            Some(after) if after.starts_with('{') => {
                let end = closing_brace(after);
                let members = paths(&after[1..end]);
                found.extend(
                    members
                        .into_iter()
                        .map(|member| format!("{path}::{member}")),
                );
                return &after[end..];
            }
            _ => {
                found.push(path);
                return rest;
            }
        }
    }
}

/// Source text without comments, literals and test items.
fn code_of(text: &str) -> String {
    let mut code = without_comments_and_literals(text);
    while let Some(start) = code.find("#[cfg(test)]") {
        let item = &code[start..];
        let end = item.find(['{', ';']).unwrap_or(item.len() - 1);
        let end = if item[end..].starts_with('{') {
            end + closing_brace(&item[end..])
        } else {
            end
        };
        code.replace_range(start..=start + end, "");
    }
    code
}

fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let passed = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if rest.starts_with("r\"") => 2 + past(&rest[2..], "\""),
            'r' if rest.starts_with("r#\"") => 3 + past(&rest[3..], "\"#"),
            '"' => 1 + past_unescaped(&rest[1..], '"'),
            '\'' if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') => {
                1 + past_unescaped(&rest[1..], '\'')
            }
            _ => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
        };
        code.push(' ');
        rest = &rest[passed..];
    }
    code
}

/// Length of `text` up to and with the first `end`.
fn past(text: &str, end: &str) -> usize {
    text.find(end).map_or(text.len(), |at| at + end.len())
}

/// Length of `text` up to and with the first `quote` that no backslash escapes.
fn past_unescaped(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices() {
        if char == quote && !escaped {
            return at + 1;
        }
        escaped = char == '\\' && !escaped;
    }
    text.len()
}

/// Where the brace that `text` begins with is closed.
fn closing_brace(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, char) in text.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 1 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len() - 1
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}
