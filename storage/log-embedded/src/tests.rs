//! What a disk can do to the log: lose its power, fail for a while, and be damaged.

mod damage;
mod disk;
mod failing;
mod power;
mod workload;
