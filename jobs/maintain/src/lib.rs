//! flywheel-maintain
