//! Rules about the code: who may use whom, and what is cited.

mod layering;
mod spec_clauses;
