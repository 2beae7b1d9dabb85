//! flywheel-it
