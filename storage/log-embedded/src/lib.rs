//! flywheel-log-embedded
