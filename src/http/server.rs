//! Connections: accepted, bounded in number and time, drained at the end.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::{Answer, Connection, RequestLog};

/// Connections at once; further ones wait in the kernel's queue. One costs about 20 KiB.
const MAX_CONNECTIONS: usize = 1024;
/// The largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// How long the first request's head may take.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests, and a later request's head take. Longer than
/// the usual scrape intervals, so that Prometheus keeps its connections.
const IDLE: Duration = Duration::from_secs(120);
/// How long a client may take nothing of an answer.
const STALLED: Duration = Duration::from_secs(30);
/// How long running requests may take once the bridge stops.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` until `stop`, then lets running requests finish, for five seconds at
/// most. `open` counts connections.
pub async fn serve(
    listener: TcpListener,
    routes: impl Answer,
    open: Gauge,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let log = Arc::new(RequestLog::default());
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, connection, permit)) => {
                let serving = Serving { routes: routes.clone(), log: Arc::clone(&log), connection };
                let (watcher, open) = (graceful.watcher(), open.clone());
                open.inc();
                connections.spawn(async move {
                    serving.run(stream, watcher).await;
                    open.dec();
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("HTTP requests were still running after {} s", DRAIN.as_secs());
    }
}

/// The next connection, once there is room for it. Cancel-safe.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Connection, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let connection = Connection { local: stream.local_addr()?, remote };
    Ok((stream, connection, permit))
}

/// One connection.
struct Serving<A> {
    routes: A,
    log: Arc<RequestLog>,
    connection: Connection,
}

impl<A: Answer> Serving<A> {
    async fn run(self, stream: TcpStream, watcher: Watcher) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(STALLED));
        let asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            self.answer(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = std::pin::pin!(watcher.watch(connection));
        let first = timeout(FIRST_REQUEST, &mut connection).await;
        let ended = match first {
            Ok(ended) => ended,
            Err(_) if asked.load(Ordering::Relaxed) => connection.await,
            Err(_) => return,
        };
        if let Err(error) = ended {
            tracing::debug!(client.addr = %self.connection.remote, %error, "HTTP connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<A::Body>, Infallible> {
        let logged = self.log.incoming(&request, self.connection);
        let response = self.routes.answer(request, self.connection).await;
        if let Some(logged) = logged {
            logged.completed(response.status());
        }
        Ok(response)
    }
}
