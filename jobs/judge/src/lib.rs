//! flywheel-judge
