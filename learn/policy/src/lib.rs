//! flywheel-policy
