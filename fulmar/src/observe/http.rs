//! As much of HTTP/1.1 as a scrape needs: one request, one answer, the connection closed (RFC 9112).
//!
//! A head has at most [`HEAD_MAX`] bytes and a connection at most [`TIME`], whatever the other side does. It does *not*
//! read bodies, keep connections or know what it serves.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Answers the request that comes on `stream`; `page` makes the body of `/metrics`.
pub(super) fn serve(stream: TcpStream, page: impl FnOnce() -> String) {
    let end = Instant::now() + TIME;
    // Whoever cannot be answered has gone; nobody is left to tell.
    let _ = answer(stream, end, page);
}

fn answer(mut stream: TcpStream, end: Instant, page: impl FnOnce() -> String) -> io::Result<()> {
    let mut head = Vec::new();
    let response = match read_head(&mut stream, &mut head, end)? {
        Ending::Whole => respond(&head, page),
        Ending::TooLarge => Response::error("431 Request Header Fields Too Large", "too large"),
        Ending::Early => return Ok(()),
    };
    let bytes = response.bytes();
    let mut left = &bytes[..];
    while !left.is_empty() {
        stream.set_write_timeout(Some(until(end)?))?;
        let written = stream.write(left)?;
        left = &left[written..];
    }
    stream.shutdown(Shutdown::Write)?;
    // Closed with bytes unread, the connection would be reset and the answer lost.
    let mut scratch = [0; 4096];
    loop {
        stream.set_read_timeout(Some(until(end)?))?;
        if stream.read(&mut scratch)? == 0 {
            return Ok(());
        }
    }
}

/// How a head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    TooLarge,
    /// With the connection.
    Early,
}

fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>, end: Instant) -> io::Result<Ending> {
    let mut piece = [0; 1024];
    while !is_whole(head) {
        if head.len() > HEAD_MAX {
            return Ok(Ending::TooLarge);
        }
        stream.set_read_timeout(Some(until(end)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(Ending::Early),
            Ok(len) => head.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Ending::Whole)
}

/// Whether the empty line has come that ends a head.
fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|window| window == b"\r\n\r\n")
}

fn until(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// What is said to a request.
#[derive(Debug)]
struct Response {
    status: &'static str,
    kind: &'static str,
    body: String,
    /// The length of the body is told, and the body is not.
    head_only: bool,
}

impl Response {
    fn ok(kind: &'static str, body: String) -> Self {
        Self {
            status: "200 OK",
            kind,
            body,
            head_only: false,
        }
    }

    fn error(status: &'static str, why: &str) -> Self {
        Self {
            status,
            kind: TEXT,
            body: format!("{why}\n"),
            head_only: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self {
            status, kind, body, ..
        } = self;
        let len = body.len();
        let allow = if status.starts_with("405") {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n{allow}Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        );
        let body = if self.head_only { "" } else { body };
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

fn respond(head: &[u8], page: impl FnOnce() -> String) -> Response {
    let Some((method, path)) = request_line(head) else {
        return Response::error("400 Bad Request", "that is no request of HTTP/1.1");
    };
    if !matches!(method, "GET" | "HEAD") {
        return Response::error("405 Method Not Allowed", "only GET and HEAD");
    }
    let response = match path {
        "/metrics" => Response::ok(PROMETHEUS, page()),
        "/health" => Response::ok(TEXT, "ok\n".to_owned()),
        _ => Response::error("404 Not Found", "there are /metrics and /health"),
    };
    Response {
        head_only: method == "HEAD",
        ..response
    }
}

/// Method and path of a request, without its query.
fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let end = head.windows(2).position(|window| window == b"\r\n")?;
    let line = str::from_utf8(&head[..end]).ok()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let sound = words.next().is_none()
        && matches!(version, "HTTP/1.1" | "HTTP/1.0")
        && !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
        && target.starts_with('/')
        && target.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then(|| (method, target.split('?').next().unwrap_or(target)))
}

/// Bytes of a request's head, about.
const HEAD_MAX: usize = 8 << 10;
/// From the first byte to the last.
const TIME: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(head: &str) -> String {
        let bytes = respond(head.as_bytes(), || "page\n".to_owned()).bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split("\r\n").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_answered() {
        for (head, want) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET /metrics?name=x HTTP/1.0\r\n\r\n", "200"),
            ("HEAD /health HTTP/1.1\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "404"),
            ("GET /../metrics HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1 x\r\n\r\n", "400"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "400"),
            ("get /metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET http://x/metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET /m\u{e9} HTTP/1.1\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            assert!(
                status(head).starts_with(&format!("HTTP/1.1 {want} ")),
                "{head}"
            );
        }
    }

    #[test]
    fn a_head_tells_the_length_and_sends_nothing() {
        let page = || "page\n".to_owned();
        let get = respond(b"GET /metrics HTTP/1.1\r\n\r\n", page).bytes();
        let head = respond(b"HEAD /metrics HTTP/1.1\r\n\r\n", page).bytes();
        assert_eq!(get, [&head[..], b"page\n"].concat());
        assert!(String::from_utf8_lossy(&head).contains("Content-Length: 5\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in any::<bool>()) {
            let head = if tail { [&b"GET /metrics "[..], &bytes].concat() } else { bytes };
            let mut asked = false;
            let response = respond(&head, || { asked = true; "page".to_owned() });
            prop_assert_eq!(asked, response.status.starts_with("200") && response.kind == PROMETHEUS);
        }
    }
}
