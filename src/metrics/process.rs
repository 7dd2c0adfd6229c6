//! The process metrics that Prometheus' client libraries agree on.

use std::fmt;

use procfs::{
    WithCurrentSystemInfo,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

/// Adds `process_*`, read from `/proc` at each scrape. On a system without one there are none.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(ProcessCollector));
}

#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(sample) = Sample::take() else { return Ok(()) };
        let cpu = ConstCounter::new(sample.cpu_seconds);
        let descriptor = encoder.encode_descriptor(
            "process_cpu",
            "User and system CPU time spent",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?;
        cpu.encode(descriptor)?;
        for (name, help, unit, value) in sample.gauges() {
            let gauge = ConstGauge::new(value);
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)?;
        }
        Ok(())
    }
}

struct Sample {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: usize,
    max_fds: u64,
}

impl Sample {
    fn take() -> Option<Self> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = procfs::ticks_per_second() as f64;
        let since_boot = stat.starttime as f64 / ticks;
        let files = process.limits().ok()?.max_open_files.soft_limit;
        Some(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            start_seconds: procfs::boot_time_secs().ok()? as f64 + since_boot,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_fds: process.fd_count().ok()?,
            max_fds: match files {
                LimitValue::Value(files) => files,
                LimitValue::Unlimited => u64::MAX,
            },
        })
    }

    fn gauges(&self) -> [(&'static str, &'static str, Option<Unit>, f64); 5] {
        let (bytes, seconds) = (|| Some(Unit::Bytes), Some(Unit::Seconds));
        let start = "Start time since 1970";
        [
            ("process_start_time", start, seconds, self.start_seconds),
            ("process_resident_memory", "Resident memory", bytes(), self.resident_bytes as f64),
            ("process_virtual_memory", "Virtual memory", bytes(), self.virtual_bytes as f64),
            ("process_open_fds", "Open file descriptors", None, self.open_fds as f64),
            ("process_max_fds", "Most open file descriptors", None, self.max_fds as f64),
        ]
    }
}
