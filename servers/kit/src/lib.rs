//! flywheel-kit
