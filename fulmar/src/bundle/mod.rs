//! Many files as one stream of bytes: folders, resumption, sparse files, and a hash that is known at the end.
//!
//! ```text
//!  frame.rs     head: lengths         manifest.rs  names, sizes, modes, holes     content             frame.rs  trailer
//! ├────────────┼─────────────────────────────────────────────────────────┼─────────────────────┼───────────────────┤
//!                                                     layout.rs  whose bytes; pieces.rs  their hash
//! ```
//!
//! A bundle takes the place of a file in a transfer. Its layout and rules are in `specs/bundle.md`. Nothing here knows
//! the network; how the two ends agree that it is a bundle is theirs.

mod ahead;
mod cache;
mod flush;
mod frame;
mod layout;
mod manifest;
mod map;
mod pieces;
mod scan;
mod sink;
mod source;
mod store;
mod storing;
mod sweep;

pub use cache::Cache;
pub use frame::{CONTENT_MAX, HEAD_LEN, Head, HeadError, Id, MANIFEST_MAX, TRAILER_LEN, Trailer};
pub use manifest::{
    Builder, ENTRIES_MAX, Entry, Kind, Manifest, ManifestError, Modified, PATH_MAX,
    read_and_write_back,
};
pub use pieces::{PIECE, PieceHasher, Pieces, Value};
pub use scan::{FileError, Scan, ScanError, Skipped};
pub use sink::{BundleSink, Finished, Ready, SinkError, SinkOptions};
pub use source::{BundleSource, ScanOptions};
pub use sweep::sweep;
