//! Several links, one stream (14).
//!
//! It does *not* repair: each link does.
