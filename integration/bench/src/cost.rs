//! Cost of a program: processor time and memory.

use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Processor time, user and system, that a running program has taken, with all threads it ever had.
pub(crate) fn processor(pid: Pid) -> Duration {
    let time = clock_getcpuclockid(pid).and_then(clock_gettime);
    time.expect("the program runs and is ours").into()
}

/// A line of the program's status that is an amount of memory, such as `VmRSS`; KiB.
pub(crate) fn memory(pid: Pid, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("layerd runs");
    let rest = |full: &str| Some(full.strip_prefix(line)?.strip_prefix(':')?.to_owned());
    let amount = status.lines().find_map(rest);
    let number = amount.and_then(|text| text.split_whitespace().next()?.parse().ok());
    number.expect("proc(5)")
}

#[cfg(test)]
mod tests {
    use super::{memory, processor};
    use nix::unistd::Pid;

    #[test]
    fn what_a_program_takes_is_seen() {
        let before = processor(Pid::this());
        let sum: u64 = (0..3_000_000_u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && processor(Pid::this()) > before);
        assert!(memory(Pid::this(), "VmHWM") >= memory(Pid::this(), "RssAnon"));
    }
}
