//! Callers of before 1.3.0 (5.10).
//!
//! It does *not* call such listeners (5.3.4).
