//! Sealing, opening and key agreement.
