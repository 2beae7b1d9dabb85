//! flywheel-torch
