//! The program moves a file as the benches run it. That there is a test of it also has `cargo test --workspace` build
//! it beside `fulmar`, where the benches look.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Dropped, it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_arrives() {
    for controller in ["cubic", "bbr"] {
        let dir =
            std::env::temp_dir().join(format!("quinn-peer-{}-{controller}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let [certificate, source, target] =
            ["certificate", "source", "target"].map(|name| dir.join(name));
        let bytes: Vec<u8> = (0..3_000_017u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        fs::write(&source, &bytes).unwrap();
        let start = |verb: &str, at: &str, file| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_quinn-peer"));
            command
                .args([verb, controller, "1000000", at])
                .arg(&certificate)
                .arg(file);
            Running(command.stdout(Stdio::piped()).spawn().unwrap())
        };
        let mut recv = start("recv", "127.0.0.1:0", &target);
        let mut line = String::new();
        BufReader::new(recv.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let to = line.split('"').nth(3).unwrap();
        let mut send = start("send", to, &source);
        assert!(send.0.wait().unwrap().success());
        assert!(recv.0.wait().unwrap().success());
        assert!(
            fs::read(&target).unwrap() == bytes,
            "{controller}: the copy differs"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
