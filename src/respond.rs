//! The one place where the outcome of a scrape becomes an HTTP answer.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    ext::ReasonPhrase,
    header::{CONTENT_TYPE, HeaderValue},
};

use crate::{metrics::Exposition, scrape::ScrapeError, telemetry::causes};

/// The content type of what is not metrics.
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The longest reason phrase, in bytes. Prometheus shows it whole.
const MAX_REASON_BYTES: usize = 200;

/// The answer to a scrape: the metrics as they came, or what the Node bridges answer, with the cause
/// in the reason phrase, which Prometheus shows as the target's last error.
pub fn scrape(scraped: Result<Bytes, ScrapeError>) -> Response<Full<Bytes>> {
    match scraped {
        Ok(metrics) => {
            let kind = HeaderValue::from_static(Exposition::of(&metrics).content_type());
            answer(StatusCode::OK, kind, metrics)
        }
        Err(ScrapeError::UnknownAlias) => failure(StatusCode::NOT_FOUND, "Unknown alias".into()),
        Err(ScrapeError::Service(reason)) => {
            failure(StatusCode::BAD_GATEWAY, format!("Upstream error: {reason}"))
        }
        Err(
            error @ (ScrapeError::Unreachable(_)
            | ScrapeError::Timeout(_)
            | ScrapeError::Request(_)
            | ScrapeError::Answer(_)),
        ) => {
            let body = "Upstream unavailable";
            let reason = format!("{body}: {}", causes(&error));
            with_reason(failure(StatusCode::BAD_GATEWAY, body.into()), &reason)
        }
    }
}

/// A failure whose text is both body and reason phrase.
fn failure(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let reason = text.clone();
    with_reason(answer(status, PLAIN, text.into()), &reason)
}

fn answer(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn with_reason<B>(mut response: Response<B>, reason: &str) -> Response<B> {
    let harmless = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let reason: String = reason.chars().map(harmless).take(MAX_REASON_BYTES).collect();
    if let Ok(reason) = ReasonPhrase::try_from(reason.into_bytes()) {
        response.extensions_mut().insert(reason);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use dht_prom_transport::TransportError;

    use super::*;
    use crate::scrape::DialError;

    fn parts(error: ScrapeError) -> (u16, String) {
        let response = scrape(Err(error));
        let reason = response.extensions().get::<ReasonPhrase>().unwrap().as_bytes().to_vec();
        (response.status().as_u16(), String::from_utf8(reason).unwrap())
    }

    #[test]
    fn the_reason_phrase_says_the_cause() {
        assert_eq!(parts(ScrapeError::UnknownAlias), (404, "Unknown alias".into()));
        let absent = Arc::new(DialError::Transport(TransportError::NotFound));
        let reason = "Upstream unavailable: cannot reach the service: peer not found";
        assert_eq!(parts(ScrapeError::Unreachable(absent)), (502, reason.into()));
        let reason = "Upstream unavailable: no answer within 9.5 s";
        assert_eq!(parts(ScrapeError::Timeout(Duration::from_millis(9_500))), (502, reason.into()));
    }

    #[test]
    fn a_reason_of_the_service_cannot_break_the_answer() {
        let (status, reason) = parts(ScrapeError::Service("a\r\nb: c é".repeat(100)));
        assert_eq!(status, 502);
        assert!(reason.starts_with("Upstream error: a??b: c ?"), "{reason}");
        assert_eq!(reason.len(), MAX_REASON_BYTES);
    }
}
