//! Scenarios over the real programs, in one binary.

mod bad_input;
mod commands;
mod doors;
mod kill_loop;
mod restart;
mod torture;
mod watched;
mod whole_loop;
