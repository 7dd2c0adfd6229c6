//! Lets Prometheus scrape services behind NAT and firewalls.

pub mod config;
pub mod metrics;
pub mod name;
pub mod registry;
pub mod telemetry;
