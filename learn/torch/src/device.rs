use std::{ffi::CStr, path::PathBuf};

use serde::Serialize;
use tch::Device;

use crate::DeviceChoice;

/// `--device cuda` was asked for and cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("no GPU for `--device cuda`: {reason}; use `--device cpu`, or `--device auto` to take what there is")]
pub struct DeviceError {
    reason: String,
}

/// What a learner would run on; printed by `flywheel-trainer doctor`.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceFacts {
    /// `cpu` or `cuda`: what `auto` takes.
    pub auto: &'static str,
    pub cuda_devices: i64,
    /// Why there is no GPU, if there is none.
    pub cuda_refused: Option<String>,
    /// Where libtorch was loaded from.
    pub libtorch: Option<PathBuf>,
    pub threads: i32,
}

/// Opens the device asked for and sets libtorch to one thread: more of them fight over the cores that games need.
///
/// Call it before any tensor is made. A program that is merely linked to libtorch does not load its CUDA half; it is
/// loaded here, where there is a driver for it.
///
/// # Errors
/// If `Cuda` was asked for and there is none.
pub fn open_device(choice: DeviceChoice) -> Result<Device, DeviceError> {
    let cuda = match choice {
        DeviceChoice::Cpu => Err("it was not asked for".to_owned()),
        DeviceChoice::Auto | DeviceChoice::Cuda => load_cuda(),
    };
    tch::set_num_threads(1);
    match (choice, cuda) {
        (_, Ok(())) => Ok(Device::Cuda(0)),
        (DeviceChoice::Cuda, Err(reason)) => Err(DeviceError { reason }),
        (_, Err(_)) => Ok(Device::Cpu),
    }
}

/// Looks at what there is.
pub fn device_facts() -> DeviceFacts {
    let cuda = load_cuda();
    tch::set_num_threads(1);
    DeviceFacts {
        auto: if cuda.is_ok() { "cuda" } else { "cpu" },
        cuda_devices: if cuda.is_ok() { tch::Cuda::device_count() } else { 0 },
        cuda_refused: cuda.err(),
        libtorch: loaded_libtorch(),
        threads: tch::get_num_threads(),
    }
}

fn load_cuda() -> Result<(), String> {
    // The driver first: without one, mapping libtorch's CUDA half is wasted time and memory.
    open(c"libcuda.so.1").map_err(|error| format!("there is no NVIDIA driver ({error})"))?;
    open(c"libtorch_cuda.so").map_err(|error| format!("this libtorch has no usable CUDA half ({error})"))?;
    if tch::Cuda::is_available() { Ok(()) } else { Err("libtorch finds no GPU that it can use".to_owned()) }
}

fn open(library: &CStr) -> Result<(), String> {
    // SAFETY: the name is a C string; libraries loaded here are never unloaded. Their initialisers are libtorch's own.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: after a failed `dlopen`, `dlerror` gives a C string that lives until the next call on this thread.
    let error = unsafe {
        let text = libc::dlerror();
        if text.is_null() { "unknown error".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(error)
}

/// Where the running program has `libtorch_cpu` mapped from.
fn loaded_libtorch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    line.find('/').map(|at| PathBuf::from(&line[at..]))
}
