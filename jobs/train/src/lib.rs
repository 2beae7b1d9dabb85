//! flywheel-train
