//! What the kernel counts of the bridge's process.

use std::time::Duration;

use procfs::process::Process;

/// A running process, watched from outside.
#[derive(Debug)]
pub(crate) struct Usage {
    pid: i32,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        i32::try_from(pid).map(|pid| Self { pid }).map_err(|error| error.to_string())
    }

    /// User and system time of all its threads so far, in steps of the kernel's clock tick (10 ms
    /// as a rule).
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        let stat = self.process().and_then(|process| process.stat());
        let stat = stat.map_err(|error| error.to_string())?;
        Ok(ticks(stat.utime + stat.stime, procfs::ticks_per_second()))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64, String> {
        let stat = self.process().and_then(|process| process.stat());
        stat.map(|stat| stat.rss * procfs::page_size()).map_err(|error| error.to_string())
    }

    fn process(&self) -> Result<Process, procfs::ProcError> {
        Process::new(self.pid)
    }
}

fn ticks(count: u64, per_second: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_fractions_of_a_second() {
        assert_eq!(ticks(0, 100), Duration::ZERO);
        assert_eq!(ticks(250, 100), Duration::from_millis(2500));
    }

    #[test]
    fn this_process_grows_by_what_it_touches() {
        let own = Usage::of(std::process::id()).expect("a pid");
        let before = own.resident_bytes().expect("we run");
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let grown = own.resident_bytes().expect("we run") - before;
        assert!(grown > 32 << 20, "{grown} bytes for {}", touched.len());
    }

    #[test]
    fn this_process_spends_what_it_computes() {
        let own = Usage::of(std::process::id()).expect("a pid");
        let before = own.cpu().expect("we run");
        let mut spun: u64 = 0;
        while own.cpu().expect("we run") < before + Duration::from_millis(50) {
            spun = std::hint::black_box(spun + 1);
        }
        assert!(spun > 0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let gone = Usage { pid: i32::MAX };
        assert!(gone.cpu().is_err() && gone.resident_bytes().is_err());
    }
}
