//! Scenarios over the real programs, in one binary.

mod bad_input;
mod golden;
mod kill_loop;
mod whole_loop;
