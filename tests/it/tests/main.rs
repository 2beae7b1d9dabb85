//! Scenarios over the real programs, in one binary.

mod bad_input;
mod kill_loop;
mod whole_loop;
