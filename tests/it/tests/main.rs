//! Scenarios over the real programs, in one binary.

mod archive;
mod bad_input;
mod commands;
mod dead_letters;
mod degraded;
mod doors;
mod kafka;
mod keys;
mod kill_loop;
mod landers;
mod restart;
mod scale_out;
mod terminated;
mod torture;
mod watched;
mod whole_loop;
