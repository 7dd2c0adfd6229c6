//! The little of an HTTP client that the tests need.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ureq::{Agent, http};

use crate::PATIENCE;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The `Content-Type` header; empty when there is none.
    pub content_type: String,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text; bytes that are not UTF-8 show as replacement characters.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// Gets `url`, with extra request headers; every status is an answer.
///
/// # Panics
/// When no answer comes.
#[must_use]
pub fn http_get(url: &str, headers: &[(&str, &str)]) -> Response {
    let request =
        headers.iter().fold(AGENT.get(url), |request, (name, value)| request.header(*name, *value));
    read(request.call(), url)
}

/// The answer to a HEAD request for `url`.
///
/// # Panics
/// When no answer comes.
#[must_use]
pub fn head(url: &str) -> Response {
    read(AGENT.head(url).call(), url)
}

/// Asks `attempt` again and again, a little apart, until it gives an answer.
///
/// For state that can only be asked for, such as a query of Prometheus; where something can be
/// awaited, await it.
///
/// # Panics
/// When it gives none within [`PATIENCE`], with the last reason it gave for that.
pub fn poll<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    poll_within(PATIENCE, attempt).unwrap_or_else(|reason| panic!("waited for {what}: {reason}"))
}

/// As [`poll`], for what must not take longer than `limit`.
///
/// # Errors
/// The last reason that it gave, when it gives no answer by then.
pub fn poll_within<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => {}
            ended => return ended,
        }
        #[expect(clippy::disallowed_methods, reason = "the pace of polling, not a hope")]
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn read(answer: Result<http::Response<ureq::Body>, ureq::Error>, url: &str) -> Response {
    let mut answer = answer.unwrap_or_else(|error| panic!("no answer from {url}: {error}"));
    let content_type = answer.headers().get(http::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    Response {
        status: answer.status().as_u16(),
        content_type: content_type.to_owned(),
        body: answer
            .body_mut()
            .read_to_vec()
            .unwrap_or_else(|error| panic!("{url} broke off: {error}")),
    }
}

static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_idle_connections(0)
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent()
});
