//! One stream key: seals and opens data packets with AES-CTR or AES-GCM (6.3, 6.4).
//!
//! It does *not* choose the key.
