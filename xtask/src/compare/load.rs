//! Scrapes a bridge over a number of kept connections, as fast as it answers.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ureq::Agent;

/// What to scrape, and how often.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    /// The address of each target's metrics; scrapes take turns among them.
    pub(crate) urls: &'a [String],
    /// How many bytes each answer must have.
    pub(crate) body_bytes: usize,
    /// Connections, each with one scrape at a time.
    pub(crate) connections: usize,
    /// Scrapes in all.
    pub(crate) scrapes: usize,
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
        let next = AtomicUsize::new(0);
        let begin = Instant::now();
        let results: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.connections).map(|_| scope.spawn(|| self.work(&next))).collect();
            workers.into_iter().map(|worker| worker.join().expect("workers do not panic")).collect()
        });
        let elapsed = begin.elapsed();
        let mut latencies = Vec::with_capacity(self.scrapes);
        for result in results {
            latencies.extend(result?);
        }
        latencies.sort_unstable();
        Ok(Timing { elapsed, latencies })
    }

    fn work(&self, next: &AtomicUsize) -> Result<Vec<Duration>, String> {
        let agent = one_connection();
        let mut latencies = Vec::new();
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= self.scrapes {
                return Ok(latencies);
            }
            let begin = Instant::now();
            if let Err(reason) = self.scrape(&agent, turn) {
                // The others would only prolong a run that has failed.
                next.store(self.scrapes, Ordering::Relaxed);
                return Err(format!("scrape {turn} of {}: {reason}", self.scrapes));
            }
            latencies.push(begin.elapsed());
        }
    }

    fn scrape(&self, agent: &Agent, turn: usize) -> Result<(), String> {
        let url = self.urls.get(turn % self.urls.len()).ok_or("nothing to scrape")?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("out of time".to_owned());
        }
        let request = agent.get(url).config().timeout_global(Some(left)).build();
        let mut answer = request.call().map_err(|error| error.to_string())?;
        let body = answer.body_mut().read_to_vec().map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{}: {}", answer.status(), String::from_utf8_lossy(&body)));
        }
        if body.len() != self.body_bytes {
            return Err(format!("{} bytes instead of {}", body.len(), self.body_bytes));
        }
        Ok(())
    }
}

fn one_connection() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None);
    config.max_idle_connections(1).max_idle_connections_per_host(1).build().new_agent()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers `answers` requests with `body` on the first connection it gets.
    fn server(answers: usize, body: &'static str) -> String {
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
        format!("http://{address}/")
    }

    fn scrape(url: String, scrapes: usize) -> Result<Timing, String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        Load { urls: &[url], body_bytes: 4, connections: 1, scrapes, deadline }.run()
    }

    #[test]
    fn all_scrapes_of_a_worker_share_one_connection() {
        let timing = scrape(server(5, "a 1\n"), 5).expect("five answers on one connection");
        assert_eq!(timing.latencies.len(), 5);
        assert!(timing.latencies.is_sorted() && timing.elapsed >= timing.latencies[4]);
    }

    #[test]
    fn an_answer_of_another_size_fails_the_run() {
        let error = scrape(server(1, "a 10\n"), 3).expect_err("one byte too many");
        assert_eq!(error, "scrape 0 of 3: 5 bytes instead of 4");
    }
}
