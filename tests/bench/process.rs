//! The memory of a process, as Linux accounts for it.

use std::fs;

/// Resident memory of this process, MB.
pub(crate) fn memory_mb() -> f64 {
    of("self", "VmRSS:")
}

/// The most resident memory that this process had since [`forget_peak`], MB.
pub(crate) fn peak_memory_mb() -> f64 {
    of("self", "VmHWM:")
}

/// Begins a new measurement of the peak.
pub(crate) fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Resident memory of another process, MB.
pub(crate) fn memory_of_mb(process_id: u32) -> f64 {
    of(&process_id.to_string(), "VmRSS:")
}

fn of(process: &str, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    let kib: f64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib * 1024.0 / 1e6
}

/// Processor time, user and system, of another process, seconds.
pub(crate) fn cpu_of_s(process_id: u32) -> f64 {
    // Of a thread group, in nanoseconds.
    let tasks = fs::read_dir(format!("/proc/{process_id}/task")).unwrap();
    let each = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap());
    each.map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9).sum()
}
