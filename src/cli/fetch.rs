//! A GET over HTTP/1.1, for asking the bridge itself.

use std::net::SocketAddr;

use axum::{
    body::Body,
    http::{Request, StatusCode, header::HOST},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Failure;

/// The largest body that is read.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Status and body of `path` at `address`. Has no time limit of its own.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), Failure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, address.to_string()).body(Body::empty())?;
    let ask = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::select! {
        answer = ask => answer,
        ended = connection => Err(ended.err().map_or("the connection ended".into(), Into::into)),
    }
}
