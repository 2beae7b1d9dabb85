//! flywheel-tank
