//! flywheel-catalog
