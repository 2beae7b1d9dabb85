//! flywheel-lake
