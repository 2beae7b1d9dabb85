//! Days leave the table and come back with the rows that they had, whatever happens on the way.

mod audited;
mod crashes;
mod days;
mod races;
mod readers;
mod world;
