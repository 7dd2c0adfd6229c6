//! The two text formats that Prometheus reads.

use std::fmt::Write;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// The content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0, for whoever asks for it.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which everything reads.
    Text,
}

impl Exposition {
    /// The format to answer with, given the request's `Accept` header.
    pub fn for_accept(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            Some(_) | None => Self::Text,
        }
    }

    /// The format of metrics that somebody else wrote: only OpenMetrics ends in `# EOF`.
    pub fn of(metrics: &[u8]) -> Self {
        let end = metrics.trim_ascii_end();
        let is_open = end
            .strip_suffix(b"# EOF")
            .is_some_and(|rest| matches!(rest.last(), None | Some(b'\n')));
        if is_open { Self::OpenMetrics } else { Self::Text }
    }

    /// The content type that says so.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPEN_METRICS,
            Self::Text => TEXT,
        }
    }

    pub(crate) fn write(self, registry: &Registry) -> String {
        let mut open_metrics = String::new();
        encode(&mut open_metrics, registry).expect("a growing string takes everything");
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => to_text(&open_metrics),
        }
    }
}

/// OpenMetrics as the older format writes it: a family has the name of its samples, so that of a
/// counter ends in `_total` and that of an info in `_info`; there are no units and no `# EOF`.
fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), Some(words)) => help = Some(words),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    same => ("", same),
                };
                let help = help.take().unwrap_or_default();
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    // The metadata of prometheus-client stands as HELP, TYPE; should that change, this shows it.
    debug_assert!(help.is_none(), "a HELP line without its TYPE line");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_accept_header() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Exposition::for_accept(Some(prometheus)), Exposition::OpenMetrics);
        assert_eq!(Exposition::for_accept(Some("*/*")), Exposition::Text);
        assert_eq!(Exposition::for_accept(None), Exposition::Text);
    }

    #[test]
    fn openmetrics_is_known_by_its_end() {
        assert_eq!(Exposition::of(b"a 1\n# EOF\n"), Exposition::OpenMetrics);
        assert_eq!(Exposition::of(b"# EOF"), Exposition::OpenMetrics);
        assert_eq!(Exposition::of(b"a 1\n"), Exposition::Text);
        assert_eq!(Exposition::of(b"a 1\n# EOF\nb 1\n"), Exposition::Text);
        assert_eq!(Exposition::of(b"a{b=\"# EOF"), Exposition::Text);
        assert_eq!(Exposition::of(b"\xff\xfe"), Exposition::Text);
    }

    #[test]
    fn families_are_named_as_the_older_format_names_them() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total 1\n# HELP b_bytes Size.\n\
                    # TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n\
                        # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 2\n";
        assert_eq!(to_text(open), expected);
    }
}
