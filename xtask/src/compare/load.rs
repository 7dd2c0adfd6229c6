//! Scrapes a bridge over a number of kept connections, as fast as it answers or at a steady rate.
//!
//! One thread waits for whichever connection has something, as the network poller of Prometheus' own
//! runtime does. With a thread for each, a bridge would pay with every answer for waking another one,
//! and bridge and clients would have less of the machine.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::{TryStreamExt as _, stream::FuturesUnordered};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{sleep_until, timeout_at},
};

/// What to scrape, and how often.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    /// The address of each target's metrics, all of one bridge; scrapes take turns among them.
    pub(crate) urls: &'a [Uri],
    /// How many bytes each answer must have.
    pub(crate) body_bytes: usize,
    /// Connections, each with one scrape at a time.
    pub(crate) connections: usize,
    /// Scrapes in all.
    pub(crate) scrapes: usize,
    /// How long after the one before a scrape begins, where a connection is free; without, at once.
    pub(crate) spacing: Option<Duration>,
    /// When to give up.
    pub(crate) deadline: Instant,
}

/// How long it all took.
#[derive(Debug)]
pub(crate) struct Timing {
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Each scrape's time, sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Load<'_> {
    /// Scrapes until the count is reached; the first answer that is not as it must be ends it.
    pub(crate) fn run(&self) -> Result<Timing, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let limited = timeout_at(self.deadline.into(), self.work());
            limited.await.unwrap_or_else(|_| Err("out of time".to_owned()))
        })
    }

    async fn work(&self) -> Result<Timing, String> {
        let next = Cell::new(0);
        let begin = Instant::now();
        let workers: FuturesUnordered<_> =
            (0..self.connections).map(|_| self.work_on_one_connection(begin, &next)).collect();
        let mut latencies: Vec<_> = workers.try_concat().await?;
        let elapsed = begin.elapsed();
        latencies.sort_unstable();
        Ok(Timing { elapsed, latencies })
    }

    async fn work_on_one_connection(
        &self,
        start: Instant,
        next: &Cell<usize>,
    ) -> Result<Vec<Duration>, String> {
        let mut connection = connect(self.urls.first().ok_or("nothing to scrape")?).await?;
        let mut latencies = Vec::new();
        while next.get() < self.scrapes {
            let turn = next.replace(next.get() + 1);
            if let Some(spacing) = self.spacing {
                sleep_until((start + spacing.mul_f64(turn as f64)).into()).await;
            }
            let begin = Instant::now();
            let url = &self.urls[turn % self.urls.len()];
            let scraped = scrape(&mut connection, url, self.body_bytes).await;
            scraped.map_err(|reason| format!("scrape {turn} of {}: {reason}", self.scrapes))?;
            latencies.push(begin.elapsed());
        }
        Ok(latencies)
    }
}

async fn connect(url: &Uri) -> Result<SendRequest<Empty<Bytes>>, String> {
    let authority = url.authority().ok_or_else(|| format!("{url} names no host"))?;
    let stream = TcpStream::connect(authority.as_str()).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    // Whoever waits for an answer is told of its end.
    tokio::spawn(connection);
    Ok(sender)
}

async fn scrape(
    connection: &mut SendRequest<Empty<Bytes>>,
    url: &Uri,
    body_bytes: usize,
) -> Result<(), String> {
    connection.ready().await.map_err(|error| error.to_string())?;
    let host = url.authority().map_or("", |authority| authority.as_str());
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, host).body(Empty::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = connection.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let mut body = answer.into_body();
    if status != StatusCode::OK {
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        received += frame.data_ref().map_or(0, Bytes::len);
    }
    if received != body_bytes {
        return Err(format!("{received} bytes instead of {body_bytes}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers `answers` requests with `body` on the first connection it gets.
    fn server(answers: usize, body: &'static str) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            for _ in 0..answers {
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).expect("the scraper reads");
            }
        });
        format!("http://{address}/").parse().expect("an address is a URL")
    }

    fn scrape(url: Uri, scrapes: usize) -> Result<Timing, String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        Load { urls: &[url], body_bytes: 4, connections: 1, scrapes, spacing: None, deadline }.run()
    }

    #[test]
    fn all_scrapes_of_a_worker_share_one_connection() {
        let timing = scrape(server(5, "a 1\n"), 5).expect("five answers on one connection");
        assert_eq!(timing.latencies.len(), 5);
        assert!(timing.latencies.is_sorted() && timing.elapsed >= timing.latencies[4]);
    }

    #[test]
    fn scrapes_keep_the_distance_asked_for() {
        let spacing = Duration::from_millis(20);
        let load = Load {
            urls: &[server(5, "a 1\n")],
            body_bytes: 4,
            connections: 1,
            scrapes: 5,
            spacing: Some(spacing),
            deadline: Instant::now() + Duration::from_secs(10),
        };
        let timing = load.run().expect("five answers");
        assert!(timing.elapsed >= 4 * spacing, "{timing:?}");
    }

    #[test]
    fn an_answer_of_another_size_fails_the_run() {
        let error = scrape(server(1, "a 10\n"), 3).expect_err("one byte too many");
        assert_eq!(error, "scrape 0 of 3: 5 bytes instead of 4");
    }
}
