//! The whole bridge in one process, its peers on the memory transport.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use bytes::Bytes;
use dht_prom_client::{
    Collect, RegisterError,
    message::{ALIAS_METHOD, ALIAS_PROTOCOL},
    register,
};
use dht_prom_transport::{Fault, Faulty, Transport};
use dht_prometheus::{config::Gzip, registry::EXPIRY};
use futures_util::{SinkExt, StreamExt};
use protomux::{DECODE_ERROR, Limits, Mux, Protocol, RpcError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

#[path = "bridge/stage.rs"]
mod stage;

use stage::{Stage, alias_request, within};

const METRICS: &str = "# TYPE a counter\na 1\n";

#[tokio::test(start_paused = true)]
async fn a_registered_service_is_scraped() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    assert!(stage.register("web", &service).await.unwrap(), "it is new");
    let answer = stage.get("/scrape/web/metrics").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, METRICS));
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(!stage.register("web", &service).await.unwrap(), "it is known");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn openmetrics_is_announced_as_what_it_is() {
    let stage = Stage::start().await;
    let service = stage.service(1, || "a_total 1\n# EOF\n".into()).await;
    stage.register("web", &service).await.unwrap();
    let answer = stage.get("/scrape/web/metrics").await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), kind);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_text_are_forwarded_as_they_are() {
    let stage = Stage::start().await;
    let bytes: Bytes = (0..=255).collect();
    let body = bytes.clone();
    let service = stage.service(1, move || body.clone()).await;
    stage.register("web", &service).await.unwrap();
    assert_eq!(stage.get("/scrape/web/metrics").await.body, bytes);
}

/// The memory transport hands messages over by reference, so the answer that the service wrote and
/// the body that leaves the bridge must be the same memory.
#[tokio::test(start_paused = true)]
async fn the_body_is_not_copied_between_session_and_response() {
    let stage = Stage::start().await;
    let tap = stage.tap(1, "x".repeat(100_000).into()).await;
    stage.register_key("web", tap.key).await.unwrap();
    let body = stage.get("/scrape/web/metrics").await.body;
    let message = tap.sent.lock().unwrap().clone().unwrap();
    assert_eq!(body.len(), 100_000);
    let (body, message) = (body.as_ptr_range(), message.as_ptr_range());
    assert!(message.start <= body.start && body.end <= message.end, "the body was copied");
}

#[tokio::test(start_paused = true)]
async fn a_head_request_is_answered_without_a_body() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let answer = stage.send("HEAD", "/scrape/web/metrics", &[]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    assert_eq!(answer.header("content-length"), METRICS.len().to_string());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let stage = Stage::start().await;
    for path in ["/scrape/nobody/metrics", "/scrape/a%2fb/metrics", "/scrape/%ff/metrics"] {
        let answer = stage.get(path).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::NOT_FOUND, "Unknown alias"));
    }
    for (method, path) in [("GET", "/x?y=1"), ("POST", "/metrics"), ("GET", "/scrape/a/b/metrics")]
    {
        let answer = stage.send(method, path, &[]).await;
        let message = format!(
            r#"{{"message":"Route {method}:{path} not found","error":"Not Found","statusCode":404}}"#
        );
        assert_eq!((answer.status, answer.text()), (StatusCode::NOT_FOUND, message.as_str()));
        assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    }
}

/// A path that needs no decoding goes past the router; one with an escape does not.
#[tokio::test]
async fn an_alias_is_found_however_it_is_written() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let ask = async |path| {
        let answer = stage::fetch(stage.bridge.http_addr(), path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let dated = |line: &&str| !line.starts_with("date: ");
        let mut head: Vec<_> = head.lines().filter(dated).map(str::to_owned).collect();
        head.sort_unstable();
        (head, body.to_owned())
    };
    let (head, body) = ask("/scrape/web/metrics").await;
    assert_eq!(body, METRICS);
    assert!(head.contains(&format!("content-length: {}", METRICS.len())), "{head:?}");
    assert_eq!(ask("/scrape/%77eb/metrics").await, (head, body));
    assert_eq!(ask("/scrape/web/metrics?a=b").await, ask("/scrape/%77eb/metrics").await);
    assert_eq!(ask("/scrape/nobody/metrics").await, ask("/scrape/%6eobody/metrics").await);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_is_quoted() {
    struct Failing;

    #[async_trait]
    impl Collect for Failing {
        async fn collect(&self) -> Result<Bytes, String> {
            Err("Failed to obtain metrics (uid x)".to_owned())
        }
    }

    let stage = Stage::start().await;
    let service = stage.service(1, Failing).await;
    stage.register("web", &service).await.unwrap();
    let answer = stage.get("/scrape/web/metrics").await;
    let expected = "Upstream error: Failed to obtain metrics (uid x)";
    assert_eq!((answer.status, answer.text()), (StatusCode::BAD_GATEWAY, expected));
}

#[tokio::test(start_paused = true)]
async fn a_dead_target_is_answered_with_the_cause() {
    let stage = Stage::start().await;
    stage.register_key("web", [9; 32].into()).await.unwrap();
    let answer = stage.get("/scrape/web/metrics").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::BAD_GATEWAY, "Upstream unavailable"));
    assert_eq!(
        answer.reason.unwrap(),
        "Upstream unavailable: cannot reach the service: peer not found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_target_is_answered_before_prometheus_gives_up() {
    let stage = Stage::start().await;
    let service = stage.service(1, Blocked::default()).await;
    stage.register("web", &service).await.unwrap();
    for (header, seconds) in [(Some("3"), 2.5), (None, 9.5)] {
        let headers: Vec<_> = header
            .map(|value| ("x-prometheus-scrape-timeout-seconds", value))
            .into_iter()
            .collect();
        let began = tokio::time::Instant::now();
        let answer = stage.send("GET", "/scrape/web/metrics", &headers).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert_eq!(
            answer.reason.unwrap(),
            format!("Upstream unavailable: no answer within {seconds:.1} s")
        );
        let took = began.elapsed().as_secs_f64();
        assert!((took - seconds).abs() < 0.1, "took {took} s");
    }
}

/// Answers once it is released.
#[derive(Debug, Clone, Default)]
struct Blocked {
    asked: Arc<Notify>,
    release: Arc<Notify>,
}

#[async_trait]
impl Collect for Blocked {
    async fn collect(&self) -> Result<Bytes, String> {
        self.asked.notify_one();
        self.release.notified().await;
        Ok(METRICS.into())
    }
}

#[tokio::test(start_paused = true)]
async fn another_key_replaces_the_target() {
    let stage = Stage::start().await;
    let old = stage.service(1, || "old 1\n".into()).await;
    stage.register("web", &old).await.unwrap();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), "old 1\n");
    let new = stage.service(2, || "new 1\n".into()).await;
    assert!(stage.register("web", &new).await.unwrap());
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), "new 1\n");
    stage.until_file(|file| file.contains(&new.key.to_string())).await;
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 1"#).await;
}

#[tokio::test(start_paused = true)]
async fn two_aliases_of_one_key_share_a_session() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    for alias in ["a", "b"] {
        stage.register(alias, &service).await.unwrap();
        assert_eq!(stage.get(&format!("/scrape/{alias}/metrics")).await.status, StatusCode::OK);
    }
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 1"#).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_alias_leaves_nothing_behind() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    stage.get("/scrape/web/metrics").await;
    stage.until_metric(r#"dht_prometheus_scrapes_total{alias="web",outcome="success"} 1"#).await;
    stage.bridge.service().directory.expire(Instant::now() + EXPIRY);
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), "Unknown alias");
    assert!(!stage.metrics().await.contains("web"), "its series is gone");
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 0"#).await;
    stage.until_file(|file| !file.contains("web")).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_remembers_the_targets() {
    let mut stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    stage.restart().await;
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
    assert!(!stage.register("web", &service).await.unwrap(), "it is known");
}

#[tokio::test(start_paused = true)]
async fn a_targets_file_that_makes_no_sense_is_kept_aside() {
    let mut stage = Stage::start().await;
    stage.stop_bridge().await;
    std::fs::write(stage.targets_path(), "[{").unwrap();
    stage.start_bridge().await;
    let files = std::fs::read_dir(stage.folder()).unwrap().map(|entry| entry.unwrap().path());
    let kept = |path: &PathBuf| path.to_str().unwrap().contains("targets.json.bad-");
    let kept: Vec<_> = files.filter(kept).collect();
    let [kept] = &kept[..] else { panic!("one file, not {kept:?}") };
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "[{");
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
}

#[tokio::test(start_paused = true)]
async fn a_targets_file_that_cannot_be_written_is_tried_again() {
    let stage = Stage::start().await;
    stage.until_metric("dht_prometheus_targets_file_writes_total 1").await;
    // Not even root can replace a folder by a file.
    let blocked = stage.targets_path();
    std::fs::remove_file(&blocked).unwrap();
    std::fs::create_dir_all(blocked.join("in the way")).unwrap();
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
    stage.until(|metrics| !metrics.contains("targets_file_write_failures_total 0")).await;
    std::fs::remove_dir_all(blocked).unwrap();
    stage.until_metric("dht_prometheus_targets_file_writes_total 2").await;
    assert!(stage.targets_file().await.contains("web"));
}

#[tokio::test(start_paused = true)]
async fn the_targets_file_is_brought_up_to_date_at_the_start() {
    let mut stage = Stage::start().await;
    assert!(stage.targets_file().await.contains(r#""targets": []"#), "before anybody registered");
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let file = stage.until_file(|file| file.contains("web")).await;

    stage.stop_bridge().await;
    std::fs::write(stage.targets_path(), file.replace('\n', "")).unwrap();
    stage.start_bridge().await;
    stage.until_file(|current| current == file).await;

    stage.stop_bridge().await;
    let written = std::fs::metadata(stage.targets_path()).unwrap().modified().unwrap();
    stage.start_bridge().await;
    stage.stop_bridge().await;
    let now = std::fs::metadata(stage.targets_path()).unwrap().modified().unwrap();
    assert_eq!(now, written, "a file that is as it should be is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_is_refused_and_the_peer_dropped() {
    let stage = Stage::start().await;
    let mut request = alias_request("web", [1; 32].into());
    request.secret = [0; 32].into();
    let refused = register(&stage.dialler(8), stage.key(), &request).await.unwrap_err();
    assert!(matches!(&refused, RegisterError::Refused(reason) if reason == "Unauthorised"));
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), "Unknown alias");

    let session = stage.dialler(9).dial(stage.key()).await.unwrap();
    let (mux, driver) = Mux::new(session.tx, session.rx, Limits::default());
    let ask = async {
        let rpc = mux.open(&Protocol::new(ALIAS_PROTOCOL), None).unwrap();
        rpc.request(ALIAS_METHOD, &request).await.unwrap();
    };
    let began = tokio::time::Instant::now();
    let (driven, ()) = tokio::join!(driver, ask);
    drop(driven);
    assert_eq!(began.elapsed().as_millis() / 100, 10, "the grace is a second");
    let metric = r#"dht_prometheus_registrations_total{outcome="unauthorised"} 2"#;
    stage.until_metric(metric).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_dropped() {
    let stage = Stage::start().await;
    let began = tokio::time::Instant::now();
    let mut session = stage.dialler(9).dial(stage.key()).await.unwrap();
    assert!(session.rx.next().await.is_none());
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn strangers_are_let_in_up_to_a_bound() {
    let stage = Stage::start().await;
    let stranger = stage.dialler(9);
    let mut inside = Vec::new();
    let refused = loop {
        match within(stranger.dial(stage.key())).await {
            Ok(session) => inside.push(session),
            Err(refused) => break refused,
        }
        assert!(inside.len() <= 256, "{} strangers were let in", inside.len());
    };
    assert_eq!(refused.kind(), dht_prom_transport::ErrorKind::Refused);
    drop(inside);
    let service = stage.service(1, || METRICS.into()).await;
    timeout(Duration::from_secs(6), async {
        while stage.register("web", &service).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("there is room again once the strangers have left");
}

#[tokio::test(start_paused = true)]
async fn names_are_checked_before_they_are_used() {
    let stage = Stage::start().await;
    for alias in ["", "a:b", "a b", "a/b", &"x".repeat(129)] {
        let refused = stage.register_key(alias, [1; 32].into()).await.unwrap_err();
        let RegisterError::Refused(reason) = &refused else { panic!("{refused}") };
        assert!(reason.contains("1 to 128 characters of A-Z a-z 0-9 . _ ~ @ + -"), "{reason}");
    }
    let mut request = alias_request("web", [1; 32].into());
    request.hostname = "host:1\n\"".to_owned();
    request.service = String::new();
    register(&stage.dialler(8), stage.key(), &request).await.unwrap();
    stage.until_file(|file| file.contains(":host-1--:unknown\"")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_read_is_a_decode_error() {
    let stage = Stage::start().await;
    let session = stage.dialler(9).dial(stage.key()).await.unwrap();
    let (mux, driver) = Mux::new(session.tx, session.rx, Limits::default());
    let ask = async {
        let rpc = mux.open(&Protocol::new(ALIAS_PROTOCOL), None).unwrap();
        let fault = match rpc.request(ALIAS_METHOD, [2, 0]).await {
            Err(RpcError::Remote(fault)) => fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault.code(), Some(DECODE_ERROR));
        assert_eq!(
            fault.cause().unwrap().message(),
            "Cannot decode RegisterRequest of other major version 2 (own major: 1)"
        );
        mux.destroy();
    };
    let (_driven, ()) = tokio::join!(driver, ask);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_request_ends_the_session() {
    let stage = Stage::start().await;
    let mut session = stage.dialler(9).dial(stage.key()).await.unwrap();
    session.tx.send(vec![1; 1 << 20].into()).await.unwrap();
    let began = tokio::time::Instant::now();
    within(async { while session.rx.next().await.is_some() {} }).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_dialled_after_a_moment() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let began = tokio::time::Instant::now();
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 1"#).await;
    // Others that start with it can register meanwhile.
    let waited = began.elapsed();
    assert!((150..500).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_is_scraped_is_dialled_at_once() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registration_redials_at_once() {
    let stage = Stage::start().await;
    stage.register_key("web", [1; 32].into()).await.unwrap();
    // Let the waits between dials grow.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let service = stage.service(1, || METRICS.into()).await;
    let began = tokio::time::Instant::now();
    stage.register("web", &service).await.unwrap();
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 1"#).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_scrape_redials_at_once() {
    let stage = Stage::start().await;
    stage.register_key("web", [1; 32].into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let _service = stage.service(1, || METRICS.into()).await;
    let began = tokio::time::Instant::now();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_dialled_again() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    stage.get("/scrape/web/metrics").await;
    drop(service);
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 0"#).await;
    let _restarted = stage.service(1, || "again 1\n".into()).await;
    stage.until_metric(r#"dht_prometheus_sessions{role="scrape"} 1"#).await;
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), "again 1\n");
}

/// A target that lets us in and throws us out at once is not dialled in a tight loop.
#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_up_is_dialled_ever_more_rarely() {
    let stage = Stage::start().await;
    let dials = Arc::new(AtomicU32::new(0));
    let target = stage.network.join([1; 32].into());
    let mut listener = target.listen().await.unwrap();
    let counted = Arc::clone(&dials);
    let _hanging_up = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap().accept().await);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    stage.register_key("web", [1; 32].into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let dials = dials.load(Ordering::Relaxed);
    assert!((8..40).contains(&dials), "{dials} dials in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_silent_network_does_not_outlast_the_deadline() {
    let stage = Stage::with_transport(|transport| {
        let faulty = Faulty::new(transport);
        faulty.set(Some(Fault::Silent));
        faulty
    })
    .await;
    stage.register_key("web", [1; 32].into()).await.unwrap();
    let began = tokio::time::Instant::now();
    let answer = stage.get("/scrape/web/metrics").await;
    assert_eq!(answer.text(), "Upstream unavailable");
    assert!(began.elapsed() <= Duration::from_millis(9_500));
}

#[tokio::test(start_paused = true)]
async fn a_scrape_that_cannot_wait_for_a_dial_says_why_the_one_before_failed() {
    let mut faulty = None;
    let stage = Stage::with_transport(|transport| {
        let unreachable = Faulty::new(transport);
        unreachable.set(Some(Fault::Unreachable));
        faulty = Some(unreachable.clone());
        unreachable
    })
    .await;
    stage.register_key("web", [1; 32].into()).await.unwrap();
    stage.until_metric(r#"dht_prometheus_dials_total{outcome="unreachable"} 1"#).await;
    faulty.unwrap().set(Some(Fault::Silent));
    let reason = stage.get("/scrape/web/metrics").await.reason.unwrap();
    let expected = "Upstream unavailable: cannot reach the service: no connection in time; before that: \
                    peer unreachable";
    assert!(reason.starts_with(expected), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn targets_are_dialled_at_once_when_the_network_is_back() {
    let mut network = None;
    let stage = Stage::with_transport(|transport| {
        let faulty = Faulty::new(transport);
        faulty.set(Some(Fault::Unreachable));
        network = Some(faulty.clone());
        faulty
    })
    .await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let began = tokio::time::Instant::now();
    network.unwrap().set(None);
    stage.until_metric(r#"dht_prometheus_dials_total{outcome="success"} 1"#).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_answers_nothing_is_dialled_anew() {
    let stage = Stage::start().await;
    let blocked = Blocked::default();
    let service = stage.service(1, blocked.clone()).await;
    stage.register("web", &service).await.unwrap();
    assert_eq!(stage.get("/scrape/web/metrics").await.status, StatusCode::BAD_GATEWAY);
    stage.until_metric(r#"dht_prometheus_dials_total{outcome="success"} 2"#).await;
    blocked.release.notify_one();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
}

/// As when Prometheus reloads its configuration in the middle of a scrape.
#[tokio::test(start_paused = true)]
async fn a_scrape_that_is_given_up_leaves_the_session_alone() {
    let stage = Stage::start().await;
    let blocked = Blocked::default();
    let service = stage.service(1, blocked.clone()).await;
    stage.register("web", &service).await.unwrap();
    let given_up = timeout(Duration::from_secs(1), stage.get("/scrape/web/metrics")).await;
    assert!(given_up.is_err());
    blocked.release.notify_one();
    blocked.release.notify_one();
    assert_eq!(stage.get("/scrape/web/metrics").await.text(), METRICS);
    let metrics = stage.metrics().await;
    assert!(metrics.contains("dht_prometheus_dials_total{outcome=\"success\"} 1\n"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn targets_need_no_relabel_rules_over_http() {
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.into()).await;
    stage.register("web", &service).await.unwrap();
    let answer = stage.send("GET", "/targets", &[("host", "bridge.example:30000")]).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let groups: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(groups[0]["targets"][0], "bridge.example:30000");
    let labels = &groups[0]["labels"];
    assert_eq!(labels["instance"], "web");
    assert_eq!(labels["hostname"], "test-host");
    assert_eq!(labels["service"], "test-service");
    assert_eq!(labels["job"], "aliases");
    assert_eq!(labels["__metrics_path__"], "/scrape/web/metrics");
    let nowhere = stage.send("GET", "/targets", &[("host", "\"no host\"")]).await;
    assert_eq!(nowhere.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_announcement() {
    let stage = Stage::start().await;
    assert_eq!(stage.get("/-/ready").await.status, StatusCode::OK);
    let waiting = Stage::unannounced().await;
    let answer = waiting.get("/-/ready").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.text(), "Not ready: the bridge is not announced yet\n");
    assert_eq!(waiting.get("/-/healthy").await.status, StatusCode::OK);
    assert!(waiting.get("/").await.text().contains("not announced"));
}

#[tokio::test(start_paused = true)]
async fn answers_are_compressed_for_those_who_ask() {
    let gzip = [("accept-encoding", "gzip")];
    let stage = Stage::start().await;
    let service = stage.service(1, || METRICS.repeat(100).into()).await;
    stage.register("web", &service).await.unwrap();
    for path in ["/metrics", "/", "/scrape/web/metrics"] {
        let answer = stage.send("GET", path, &gzip).await;
        assert_eq!(answer.header("content-encoding"), "gzip", "{path}");
        assert_eq!(answer.body[..2], [0x1f, 0x8b], "{path}");
        let plain = stage.send("GET", path, &[]).await;
        assert_eq!(plain.header("content-encoding"), "", "{path}");
    }
    // The same over a connection from this host, where it would not pay.
    let metrics = stage.send_from_here("/metrics", &gzip).await;
    assert_eq!(metrics.header("content-encoding"), "gzip");
    let scrape = stage.send_from_here("/scrape/web/metrics", &gzip).await;
    assert_eq!(scrape.header("content-encoding"), "");

    let always = Stage::with_gzip(Gzip::Always).await;
    let service = always.service(1, || METRICS.repeat(100).into()).await;
    always.register("web", &service).await.unwrap();
    let scrape = always.send_from_here("/scrape/web/metrics", &gzip).await;
    assert_eq!(scrape.header("content-encoding"), "gzip");
    let never = Stage::with_gzip(Gzip::Never).await;
    assert_eq!(never.send("GET", "/metrics", &gzip).await.header("content-encoding"), "");
}

#[tokio::test]
async fn running_scrapes_finish_before_the_bridge_stops() {
    let stage = Stage::start().await;
    let blocked = Blocked::default();
    let service = stage.service(1, blocked.clone()).await;
    stage.register("web", &service).await.unwrap();
    let scrape = tokio::spawn(stage::fetch(stage.bridge.http_addr(), "/scrape/web/metrics"));
    blocked.asked.notified().await;
    let address = stage.bridge.http_addr();
    let stopping = tokio::spawn(stage.stop());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    blocked.release.notify_one();
    let answer = within(scrape).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(METRICS), "{answer}");
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn prometheus_sees_the_cause_in_the_reason_phrase() {
    let stage = Stage::start().await;
    stage.register_key("web", [9; 32].into()).await.unwrap();
    let answer = stage::fetch(stage.bridge.http_addr(), "/scrape/web/metrics").await;
    let status = "HTTP/1.1 502 Upstream unavailable: cannot reach the service: peer not found\r\n";
    assert!(answer.starts_with(status), "{answer}");
}

#[tokio::test]
async fn an_oversized_request_head_is_refused() {
    let stage = Stage::start().await;
    let path = format!("/{}", "x".repeat(64 << 10));
    let answer = stage::fetch(stage.bridge.http_addr(), &path).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{}", &answer[..answer.len().min(100)]);
}

/// Time is paused: it jumps to the next deadline once nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let stage = Stage::start().await;
    for (sent, seconds) in [("", 10), ("GET /metrics HTTP/1.1\r\nho", 10)] {
        let mut stream = TcpStream::connect(stage.bridge.http_addr()).await.unwrap();
        let began = tokio::time::Instant::now();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        within(stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), seconds, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_bridge_ends_its_sessions() {
    let Stage { bridge, network, .. } = Stage::start().await;
    let target = network.join([1; 32].into());
    let mut listener = target.listen().await.unwrap();
    let dialler = network.join([2; 32].into());
    let request = alias_request("web", target.local_key());
    register(&dialler, bridge.public_key(), &request).await.unwrap();
    let mut session = listener.accept().await.unwrap().accept().await.unwrap();
    drop(bridge);
    within(async { while session.rx.next().await.is_some() {} }).await;
}
