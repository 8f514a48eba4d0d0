//! The seeded link simulator.
