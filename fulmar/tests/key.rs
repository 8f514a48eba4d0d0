//! `fulmar key` of the real binary: what it prints, what it writes, and how it fails.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fulmar::identity::{HostKey, KnownHosts, PublicKey};
use serde_json::Value;

#[test]
fn a_key_is_made_shown_and_rotated() {
    let home = tempfile::tempdir().unwrap();
    let shown = text(&key(home.path(), "show", 0).stdout);
    let path = home.path().join("fulmar/host_key");
    let made = HostKey::load(&path).unwrap();
    assert_eq!(shown, format!("{}\n", made.fingerprint()));
    assert_eq!(text(&key(home.path(), "show", 0).stdout), shown);
    let public = text(&key(home.path(), "show --public", 0).stdout);
    assert_eq!(public, format!("x25519 {}\n", made.public()));
    let json: Value = serde_json::from_slice(&key(home.path(), "show --json", 0).stdout).unwrap();
    assert_eq!(json["fingerprint"], made.fingerprint().to_string());
    assert_eq!(json["new"], false);

    let rotated = text(&key(home.path(), "rotate", 0).stdout);
    let new = HostKey::load(&path).unwrap();
    assert_eq!(
        rotated,
        format!("old {}\nnew {}\n", made.fingerprint(), new.fingerprint())
    );
    let old = HostKey::load(&path.with_file_name("host_key.old")).unwrap();
    assert_eq!(old.public(), made.public());

    // No command ever prints what is in the file.
    let secret = fs::read_to_string(&path).unwrap();
    let secret = secret.split(' ').nth(1).unwrap().to_owned();
    for command in [
        "show",
        "show --public",
        "show --json",
        "rotate --json",
        "list",
    ] {
        let output = key(home.path(), command, 0);
        assert!(!(text(&output.stdout) + &text(&output.stderr)).contains(&secret));
    }
}

#[test]
fn a_bad_key_is_an_explained_error_and_stays() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("elsewhere");
    let command = format!("show --key-file {}", path.display());
    key(home.path(), &command, 0);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let said = text(&key(home.path(), &command, 4).stderr);
    assert!(
        said.contains("read by others") && said.contains("0600"),
        "{said}"
    );

    fs::write(&path, "gone").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for verb in ["show", "rotate"] {
        let said = text(&key(home.path(), &command.replace("show", verb), 4).stderr);
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.contains("damaged"), "{said}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"gone");
    let said = text(&key(home.path(), "rotate", 1).stderr);
    assert!(said.starts_with("error: cannot use the key in "), "{said}");
}

#[test]
fn hosts_are_listed_and_forgotten() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(text(&key(home.path(), "list", 0).stdout), "");
    let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
    let path = home.path().join("fulmar/known_hosts");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lines = format!(
        "a.example:9000 x25519 {one} the\u{1b}[31m archive\na.example:7 x25519 {two}\nbad:9000 x25519 AAAA\n[2001:db8::7]:9000 x25519 {two}\n"
    );
    fs::write(&path, lines).unwrap();
    let output = key(home.path(), "list", 0);
    assert_eq!(
        text(&output.stdout),
        format!(
            "a.example:9000 {} the\\u{{1b}}[31m archive\na.example:7 {two}\n[2001:db8::7]:9000 {two}\n",
            one.fingerprint(),
            two = two.fingerprint()
        )
    );
    let said = text(&output.stderr);
    assert!(
        said.contains("line 3 of") && said.lines().count() == 1,
        "{said}"
    );

    key(home.path(), "forget a.example:9", 1);
    key(home.path(), "forget A.example", 0);
    key(home.path(), "forget [2001:db8:0::7]:9000", 0);
    key(home.path(), "forget bad", 0);
    assert_eq!(fs::read(&path).unwrap(), b"");
    let said = text(&key(home.path(), "forget bad", 1).stderr);
    assert!(said.contains("fulmar key list"), "{said}");
    key(home.path(), "forget a:b", 2);
    assert_eq!(KnownHosts::load(&path).unwrap().records().count(), 0);
}

#[test]
fn without_a_home_a_file_must_be_named() {
    let output = Command::new(BINARY)
        .args(["key", "show"])
        .env_remove("HOME")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--key-file"));
}

fn key(home: &Path, command: &str, code: i32) -> Output {
    let output = Command::new(BINARY)
        .arg("key")
        .args(command.split(' '))
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command}: {}",
        text(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const BINARY: &str = env!("CARGO_BIN_EXE_fulmar");
