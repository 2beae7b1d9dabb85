//! flywheel-replay
