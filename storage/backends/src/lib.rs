//! flywheel-backends
