//! flywheel-agent
