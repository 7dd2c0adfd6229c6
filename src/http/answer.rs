//! What answers a request that the server has read.

use std::sync::Arc;

use axum::{
    BoxError, Router,
    body::{Body, Bytes, HttpBody},
    http::{Method, Request, Response},
};
use http_body_util::{Either, Full};
use tower::ServiceExt;

use super::{Connection, Service, is_worth_compressing, limit, router};

/// Answers the requests of a server.
pub trait Answer: Clone + Send + Sync + 'static {
    /// What the answers consist of.
    type Body: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// The answer to a request that came over `connection`. Cancel-safe.
    fn answer(
        &self,
        request: Request<impl RequestBody>,
        connection: Connection,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What a request may bring.
pub trait RequestBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static> RequestBody for B {}

impl Answer for Router {
    type Body = Body;

    async fn answer(
        &self,
        request: Request<impl RequestBody>,
        connection: Connection,
    ) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection);
        match self.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The bridge's router, with a short way past it for what the bridge is there for.
///
/// The router, its extractors, and the boxes that layers and bodies come in take a tenth of what a
/// scrape of 1 KB takes in all, and half of its allocations.
#[derive(Debug, Clone)]
pub struct Routes {
    service: Arc<Service>,
    router: Router,
}

impl Routes {
    /// Every route of the bridge.
    pub fn new(service: Arc<Service>) -> Self {
        Self { router: router(Arc::clone(&service)), service }
    }

    /// The target of a scrape that the router would only pass on: nothing about it is to be decoded,
    /// compressed or left out.
    fn plain_scrape<'a>(
        &self,
        request: &'a Request<impl RequestBody>,
        connection: Connection,
    ) -> Option<&'a str> {
        let is_plain = request.method() == Method::GET
            && !is_worth_compressing(self.service.gzip, Some(connection));
        plain_alias(request.uri().path()).filter(|_| is_plain)
    }
}

impl Answer for Routes {
    type Body = Either<Full<Bytes>, Body>;

    async fn answer(
        &self,
        request: Request<impl RequestBody>,
        connection: Connection,
    ) -> Response<Self::Body> {
        match self.plain_scrape(&request, connection) {
            Some(alias) => {
                self.service.forward(alias, limit(request.headers())).await.map(Either::Left)
            }
            None => self.router.answer(request, connection).await.map(Either::Right),
        }
    }
}

/// The alias in the path of a scrape, where it is written as it is.
fn plain_alias(path: &str) -> Option<&str> {
    let alias = path.strip_prefix("/scrape/")?.strip_suffix("/metrics")?;
    (!alias.is_empty() && !alias.contains(['/', '%'])).then_some(alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_need_no_decoding_go_past_the_router() {
        assert_eq!(plain_alias("/scrape/shop-1/metrics"), Some("shop-1"));
        assert_eq!(plain_alias("/scrape/metrics/metrics"), Some("metrics"));
        for path in [
            "/scrape//metrics",
            "/scrape/metrics",
            "/scrape/a/b/metrics",
            "/scrape/a%20b/metrics",
            "/scrape/a/metrics/",
            "/scrape/a",
            "/a/metrics",
            "*",
        ] {
            assert_eq!(plain_alias(path), None, "{path}");
        }
    }
}
