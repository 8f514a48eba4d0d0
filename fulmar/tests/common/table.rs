//! Tables of `docs/errors.md`, held to the code: with `BLESS=1` they are written instead of compared.

use std::path::Path;
use std::{env, fs};

/// The first two lines of a table of failures.
pub(crate) fn head() -> Vec<String> {
    ["| error | because | try | exit |", "|---|---|---|---|"]
        .map(str::to_owned)
        .into()
}

/// One failure, as it is printed.
pub(crate) fn row(error: &str, because: &str, hint: &str, exit: u8) -> String {
    let [error, because, hint] = [error, because, hint].map(|text| text.replace('|', "\\|"));
    format!("| {error} | {because} | {hint} | {exit} |")
}

/// Compares the table behind `<!-- name -->` with what the code says.
pub(crate) fn check(name: &str, rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let text = fs::read_to_string(&path).expect("docs/errors.md is there");
    let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
    let from = text.find(&begin).expect("it has this table") + begin.len();
    let to = from + text[from..].find(end).expect("the table has an end");
    let wanted = rows.join("\n") + "\n";
    if env::var("BLESS").is_ok_and(|value| value == "1") {
        let text = [&text[..from], &wanted, &text[to..]].concat();
        fs::write(&path, text).expect("docs/errors.md can be written");
        return;
    }
    let documented: Vec<&str> = text[from..to].lines().collect();
    for row in rows {
        assert!(
            documented.contains(&row.as_str()),
            "docs/errors.md lacks this row of {name:?}; BLESS=1 writes it:\n{row}"
        );
    }
    assert_eq!(
        text[from..to],
        wanted,
        "docs/errors.md has rows that the code has not"
    );
}
