//! What the code cites stands in `specs/hp-udp.md`, whose clauses and vectors are in order.
//!
//! A citation in a comment is a list in parentheses, `(7.2)` or `(4.1, 4.2)`; a number after a word that names the text,
//! `HP-UDP 14`, `` `hp-udp` 6.3 ``, `clause 8`, `table of 6.2`; or a number that begins a sentence, `8.4: why`. A whole
//! number alone in parentheses is more often a value and is let pass. The reader does not know whether the clause says
//! what the comment claims.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_clause_cited_in_the_module_is_there() {
    let clauses = clauses(&spec());
    let mut cited = 0;
    for path in sources(&root().join("fulmar-proto/src/hpudp")) {
        for citation in citations(&read(&path), true) {
            cited += 1;
            assert!(
                clauses.contains(&citation),
                "{} cites clause {citation}, and specs/hp-udp.md has none",
                path.display()
            );
        }
    }
    assert!(cited > 40, "found {cited} citations: the reader is blind");
}

#[test]
fn every_clause_cited_elsewhere_is_there() {
    let clauses = clauses(&spec());
    let mut cited = 0;
    for part in ["fulmar-proto", "fulmar"] {
        for path in sources(&root().join(part)) {
            for citation in citations(&read(&path), false) {
                cited += 1;
                assert!(
                    clauses.contains(&citation),
                    "{} cites HP-UDP {citation}, and specs/hp-udp.md has none",
                    path.display()
                );
            }
        }
    }
    assert!(cited > 10, "found {cited} citations: the reader is blind");
}

#[test]
fn clauses_are_numbered_once_in_order_and_inside_their_section() {
    let numbers = numbers(&spec());
    let sections: Vec<_> = numbers.iter().filter(|one| !one.contains('.')).collect();
    assert!(sections.len() >= 20, "found only {sections:?}");
    let parts = |number: &String| -> Vec<u32> {
        let parts = number.split('.').map(|part| part.parse());
        parts.collect::<Result<_, _>>().expect("digits")
    };
    for pair in numbers.windows(2) {
        assert!(
            parts(&pair[0]) < parts(&pair[1]),
            "{} stands before {}",
            pair[0],
            pair[1]
        );
    }
    for number in &numbers {
        if let Some((parent, _)) = number.rsplit_once('.') {
            assert!(
                numbers.iter().any(|one| one == parent),
                "{number} has no {parent} around it"
            );
        }
    }
}

#[test]
fn the_text_refers_to_clauses_that_are_there() {
    let (spec, mut found) = (spec(), 0);
    let clauses = clauses(&spec);
    for paragraph in spec.split("\n\n") {
        for citation in in_parentheses(&paragraph.replace('\n', " ")) {
            found += 1;
            assert!(clauses.contains(&citation), "there is no {citation}");
        }
    }
    assert!(found > 50, "found {found} references: the reader is blind");
}

#[test]
fn vectors_in_the_text_and_beside_it_are_the_same() {
    let file = read(&root().join("specs/vectors/hp-udp.txt"));
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let mut beside = BTreeSet::new();
    for line in lines {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, clause, bytes] = fields[..] else {
            panic!("not name, clause and bytes: {line}")
        };
        assert!(
            beside.insert((clause.to_owned(), bytes.to_owned())),
            "twice: {line}"
        );
    }
    let mut inside = BTreeSet::new();
    let mut clause = String::new();
    for line in spec().lines() {
        clause = heading(line).unwrap_or(clause);
        let packet = line.strip_prefix("    ").filter(|hex| is_hex(hex));
        // 20.9 has shards, no packets.
        if let Some(hex) = packet.filter(|_| clause.starts_with("20.") && clause != "20.9") {
            inside.insert((clause.clone(), hex.to_owned()));
        }
    }
    assert_eq!(inside, beside);
}

#[test]
fn the_reader_sees_what_it_should() {
    let sorted = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
    let all = |text: &str| sorted(citations(text, true));
    assert_eq!(all("/// Stamps (7.4)."), ["7.4"]);
    assert_eq!(
        all("//! Both (4.1,\n//! 4.2) and (9, 19.4)."),
        ["19.4", "4.1", "4.2"]
    );
    assert_eq!(all("x(); // (9, lesson D, 7.2.1)"), ["7.2.1"]);
    assert_eq!(
        all("// follows clause 8 line by line, by the rules of 2.4."),
        ["2.4", "8"]
    );
    assert_eq!(all("// The table (HP-UDP 14)."), ["14"]);
    assert_eq!(
        all("// (`hp-udp` 19.1, 20.6): why; and HP-UDP 3.2 and 3.3."),
        ["19.1", "20.6", "3.2", "3.3"]
    );
    assert_eq!(
        all("/// 8.2, row by row.\nf();\n// 8.4: why"),
        ["8.2", "8.4"]
    );
    assert_eq!(all("assert!(x, \"8.4: five\");"), ["8.4"]);

    let values =
        "/// Default (10), (2 MB/s), HP-UDP v5.0, 1.25 round trips, (0.85), RFC (RFC 7748, 6.1).";
    assert!(all(values).is_empty());
    assert!(all("let rate = f(2.0) + \"(7.2)\".len();").is_empty());

    let named = |text: &str| sorted(citations(text, false));
    assert_eq!(
        named("// (7.2) of another text, and HP-UDP 12.3."),
        ["12.3"]
    );
    assert!(named("// its clause 4.1").is_empty());
}

/// The clauses that a source file cites; `own` if the file is of the module that the text describes.
fn citations(source: &str, own: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for comment in comments(source) {
        if own {
            found.extend(in_parentheses(&comment));
            found.extend(at_the_start(&comment));
        }
        let names: &[&str] = if own { &NAMES } else { &NAMES[..3] };
        for name in names {
            for (at, _) in comment.match_indices(name) {
                found.extend(list(&comment[at + name.len()..]));
            }
        }
    }
    if own {
        found.extend(source.split('"').filter_map(at_the_start));
    }
    found
}

/// Runs of comment lines, each run as one line without its slashes.
fn comments(source: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in source.lines() {
        let alone = line.trim_start().starts_with("//");
        let start = if alone {
            line.find("//")
        } else {
            line.find(" // ")
        };
        let text = start.map(|at| line[at..].trim().trim_start_matches(['/', '!']).trim());
        match (text, found.last_mut().filter(|_| open && alone)) {
            (Some(text), Some(last)) => *last = format!("{last} {text}"),
            (Some(text), None) => found.push(text.to_owned()),
            (None, _) => {}
        }
        open = alone;
    }
    found
}

/// The clauses among the members of lists in parentheses.
fn in_parentheses(text: &str) -> Vec<String> {
    let groups = text.split('(').skip(1).filter_map(|rest| {
        let (group, _) = rest.split_once(')')?;
        (!group.contains("RFC")).then_some(group)
    });
    let members = groups.flat_map(|group| group.split(','));
    members.filter_map(|member| whole(member.trim())).collect()
}

/// A clause that is all of the text. Values start with 0 or have no dot.
fn whole(text: &str) -> Option<String> {
    number(text)
        .filter(|(number, rest)| {
            rest.is_empty() && number.contains('.') && !number.starts_with('0')
        })
        .map(|(number, _)| number.to_owned())
}

/// A clause that the text begins with, before a comma or a colon.
fn at_the_start(text: &str) -> Option<String> {
    let (number, rest) = number(text)?;
    (number.contains('.') && rest.starts_with([',', ':'])).then(|| number.to_owned())
}

/// The clauses of a list that the text begins with.
fn list(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((one, after)) = number(rest) {
        found.push(one.to_owned());
        let next = after
            .strip_prefix(", ")
            .or_else(|| after.strip_prefix(" and "));
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    found
}

/// Splits off a number such as `7` or `7.2.4`.
fn number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    let number = text[..end].trim_end_matches('.');
    let rest = &text[number.len()..];
    let digits = number.split('.').all(|part| (1..=2).contains(&part.len()));
    (digits && !rest.starts_with(char::is_alphabetic)).then_some((number, rest))
}

fn clauses(spec: &str) -> BTreeSet<String> {
    numbers(spec).into_iter().collect()
}

/// The numbers of sections, their parts and rules, as they stand.
fn numbers(spec: &str) -> Vec<String> {
    let rule = |line: &str| {
        let (number, _) = line.trim_start().strip_prefix("- **")?.split_once("**")?;
        Some(number.to_owned())
    };
    spec.lines()
        .filter_map(|line| heading(line).or_else(|| rule(line)))
        .collect()
}

/// The number of a heading, `## 7. Heartbeat` or `### 7.1 When`.
fn heading(line: &str) -> Option<String> {
    let text = line
        .strip_prefix("### ")
        .or_else(|| line.strip_prefix("## "))?;
    number(text).map(|(number, _)| number.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Every Rust file below a directory but this one, by name; build directories left out.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the repository is readable") {
            let path = entry.expect("an entry of it too").path();
            let name = path.file_name().unwrap_or_default().to_owned();
            if path.is_dir() && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && name != "spec_clauses.rs" {
                found.insert(path);
            }
        }
    }
    found.into_iter().collect()
}

fn spec() -> String {
    read(&root().join("specs/hp-udp.md"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands before a clause. The first three name the text anywhere.
const NAMES: [&str; 7] = [
    "HP-UDP ",
    "`hp-udp` ",
    "hp-udp.md ",
    "clause ",
    "clauses ",
    "rules of ",
    "table of ",
];
