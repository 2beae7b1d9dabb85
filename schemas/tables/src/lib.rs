//! flywheel-tables
