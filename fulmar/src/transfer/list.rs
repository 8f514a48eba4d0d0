//! What a daemon has: [`list`].
//!
//! The answer is neither encrypted nor proved to be the daemon's (HP-UDP 18.6): it is good for looking, and whatever is
//! then fetched proves itself. It does *not* fetch.

use std::sync::atomic::Ordering::Relaxed;

use fulmar_proto::hpudp::{Command, Event, Tag};

use super::error::{Attempt, Side};
use super::recv::next_event;
use super::{GetOptions, TICK, TransferError, any_port, bind, spawn_bulk};

/// What a daemon gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As the daemon wrote it; hostile until escaped.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes of a file; none where the daemon does not say.
    pub size: Option<u64>,
}

/// Asks a daemon what it has.
///
/// # Errors
/// If it does not answer, as one without lists does not, or `options.stop` was set.
pub fn list(options: &GetOptions) -> Result<Vec<Listed>, TransferError> {
    let peer = options.from;
    let here = any_port(peer);
    let socket = bind(here, options.dscp)?;
    let handle = spawn_bulk(socket, Vec::new(), here, options.config.clone(), 1)?;
    let attempt = Attempt {
        side: Side::List,
        name: String::new(),
        peer,
        resumes: false,
    };
    let mut found = Vec::new();
    for page in 0.. {
        let (tag, first) = (Tag(page), found.len() as u64);
        let command = Command::List {
            tag,
            to: peer,
            first,
        };
        handle.command(command).map_err(TransferError::driver)?;
        loop {
            if options.stop.load(Relaxed) {
                return Err(TransferError::stopped(&attempt));
            }
            match next_event(&handle, TICK)? {
                Some(Event::Listing {
                    tag: of,
                    first: at,
                    total,
                    text,
                }) if of == tag && at == first => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let before = found.len();
                    found.extend(text.lines().filter(|line| !line.is_empty()).map(read));
                    let whole = found.len() as u64 >= total.min(MOST);
                    if whole || found.len() == before {
                        return Ok(found);
                    }
                    break;
                }
                Some(Event::Finished {
                    tag: of,
                    result: Err(failure),
                    ..
                }) if of == tag => {
                    return Err(TransferError::session(&attempt, failure));
                }
                Some(_) | None => {}
            }
        }
    }
    Ok(found)
}

/// `name`, tab, `size`; an early dialect writes names alone. A folder's name has a slash behind it.
fn read(line: &str) -> Listed {
    let (name, size) = match line.rsplit_once('\t') {
        Some((name, size)) => (name, size.parse().ok()),
        None => (line, None),
    };
    match name.strip_suffix('/') {
        Some(name) => Listed {
            name: name.to_owned(),
            folder: true,
            size: None,
        },
        None => Listed {
            name: name.to_owned(),
            folder: false,
            size,
        },
    }
}

/// Entries believed in, whatever a daemon claims.
const MOST: u64 = 1 << 20;
