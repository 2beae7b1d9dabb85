//! flywheel-jobs
