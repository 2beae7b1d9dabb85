//! flywheel-tank-server
