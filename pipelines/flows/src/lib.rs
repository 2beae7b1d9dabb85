//! flywheel-flows
