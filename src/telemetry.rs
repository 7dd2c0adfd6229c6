//! Log lines: JSON as the Node bridges' pino writes it, or text for people.

use std::{
    fmt, io,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

/// Our own crates, which the level is for; others are heard when they warn.
const OWN: [&str; 6] = [
    "dht_prometheus",
    "dht_prom_client",
    "dht_prom_transport",
    "dht_prom_transport_memory",
    "hyperdht_rs",
    "protomux",
];

/// Sends events to stdout from now on. Once per process; later calls change nothing.
pub fn init(config: LogConfig) {
    let Some(level) = config.level else { return };
    let level = tracing_subscriber::filter::LevelFilter::from_level(level);
    let targets = Targets::new()
        .with_default(level.min(tracing_subscriber::filter::LevelFilter::WARN))
        .with_targets(OWN.map(|target| (target, level)));
    let registry = tracing_subscriber::registry().with(targets);
    let is_terminal = io::stdout().is_terminal();
    let format =
        config.format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let outcome = match format {
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().event_format(Pino::new());
            registry.with(lines).try_init()
        }
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(is_terminal);
            registry.with(lines).try_init()
        }
    };
    // Whoever embeds the bridge may have set up logging of their own.
    drop(outcome);
}

/// One JSON object per line with pino's field names: `level` (10 trace to 50 error), `time` in
/// milliseconds since 1970, `pid`, `hostname`, the event's fields and `msg`. A dot in a field's name
/// makes an object: `req.url` is written as `"req":{"url":…}`.
#[derive(Debug)]
struct Pino {
    pid: u32,
    hostname: String,
}

impl Pino {
    fn new() -> Self {
        let hostname = gethostname::gethostname().to_string_lossy().into_owned();
        Self { pid: std::process::id(), hostname }
    }
}

impl<S, N> FormatEvent<S, N> for Pino
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut line = Line::default();
        line.fields.insert("level".to_owned(), pino_level(*event.metadata().level()).into());
        line.fields.insert("time".to_owned(), u64::try_from(time).unwrap_or(u64::MAX).into());
        line.fields.insert("pid".to_owned(), self.pid.into());
        line.fields.insert("hostname".to_owned(), self.hostname.as_str().into());
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.fields))
    }
}

fn pino_level(level: Level) -> u8 {
    match level {
        Level::TRACE => 10,
        Level::DEBUG => 20,
        Level::INFO => 30,
        Level::WARN => 40,
        Level::ERROR => 50,
    }
}

/// Collects an event's fields.
#[derive(Debug, Default)]
struct Line {
    fields: Map<String, Value>,
}

impl Line {
    fn set(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        let mut object = &mut self.fields;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                object.insert(part.to_owned(), value);
                return;
            }
            let inner = object.entry(part).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = inner else { return };
            object = inner;
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field, causes(value).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

/// An error and what caused it, on one line.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Lets so many events per second pass: for lines that strangers can cause.
#[derive(Debug)]
pub struct Throttle {
    per_second: u32,
    /// When the running second began, and how many events it has seen.
    window: Mutex<(Instant, u32)>,
}

impl Throttle {
    /// At most `per_second` events in each second.
    pub fn per_second(per_second: u32) -> Self {
        Self { per_second, window: Mutex::new((Instant::now(), 0)) }
    }

    /// Whether one more event may pass now.
    pub fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(window.0) >= Duration::from_secs(1) {
            *window = (now, 0);
        }
        window.1 = window.1.saturating_add(1);
        window.1 <= self.per_second
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        #[expect(clippy::unwrap_in_result, reason = "the trait wants a result, the test has none")]
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes.
    fn lines(log: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Pino::new())
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_have_the_fields_that_pino_writes() {
        let lines = lines(|| {
            tracing::info!(
                reqId = "req-1",
                req.method = "GET",
                req.url = "/scrape/dummy/metrics",
                res.statusCode = 200,
                "incoming request"
            );
        });
        let [line] = &lines[..] else { panic!("one event is one line") };
        assert!(line.contains(r#""url":"/scrape/dummy/metrics""#), "{line}");
        assert!(line.contains(r#""statusCode":200"#), "{line}");
        let object: Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["level"], 30);
        assert_eq!(object["msg"], "incoming request");
        assert_eq!(object["reqId"], "req-1");
        assert_eq!(object["req"]["method"], "GET");
        assert_eq!(object["pid"], std::process::id());
        assert!(object["time"].as_u64().unwrap() > 1_700_000_000_000);
    }

    #[test]
    fn a_line_break_in_a_value_does_not_break_the_line() {
        let lines = lines(|| tracing::warn!(name = "a\nb\u{1b}", "two\nlines"));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        let inner = io::Error::other("the disk is full");
        let error = dht_prom_transport::TransportError::Io { act: "writing", source: inner };
        assert_eq!(causes(&error), "writing failed: the disk is full");
    }

    #[test]
    fn a_throttle_lets_so_many_pass_each_second() {
        let throttle = Throttle::per_second(2);
        let start = Instant::now() + Duration::from_secs(2);
        let passed = (0..5).filter(|_| throttle.allows_at(start)).count();
        assert_eq!(passed, 2);
        assert!(!throttle.allows_at(start + Duration::from_millis(999)));
        assert!(throttle.allows_at(start + Duration::from_secs(1)));
    }
}
