//! flywheel-control
