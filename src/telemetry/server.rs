//! Serves the metrics over HTTP, and knows when they were last read.

use std::{
    convert::Infallible,
    fs, io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue},
    http::uri::Authority,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

/// Prometheus reads every minute if nobody tells it otherwise; who reads much less often is not waited for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(90);

/// A scrape may come so much late, on a busy machine.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);

/// What an answer that has begun may take at the end.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);

/// What a connection may take from being accepted to the end of its one answer: as long as Prometheus waits for a scrape. Who
/// opens connections and asks nothing, or reads nothing, holds them no longer.
const LONGEST_CONNECTION: Duration = Duration::from_secs(10);

/// Most connections at a time: a few scrapers and people at browsers. Further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 64;

/// Connections have one in so many of the descriptors that the process may open; the others are for the run's files.
const SHARE_OF_DESCRIPTORS: usize = 8;

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// Sent by Prometheus and by what scrapes in its place; a person at a browser is not waited for.
const SCRAPERS_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// Prometheus's text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// When the metrics were scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scrapes {
    last: Option<Instant>,
    /// Between the last three: where two scrape, one comes soon after the other.
    intervals: [Option<Duration>; 2],
}

impl Scrapes {
    fn another_at(self, now: Instant) -> Self {
        let [_, before] = self.intervals;
        Self { last: Some(now), intervals: [before, self.last.map(|last| now - last)] }
    }

    /// Until when another one may be hoped for at `now`; `None` where nobody reads at intervals, or nobody does any longer.
    fn next_until(self, now: Instant) -> Option<Instant> {
        let intervals = self.intervals.into_iter().flatten();
        let interval = intervals.filter(|interval| *interval <= LONGEST_INTERVAL).max()?;
        // Half an interval late is late for a scrape: the reader has gone.
        let latest = self.last? + interval + (interval / 2).max(SHORTEST_DELAY);
        (latest > now).then_some(latest)
    }
}

/// A listener on `address`.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Connections that may be open at once, so that the run has descriptors left whatever happens here.
fn most_connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    open_files(&limits).map_or(MOST_CONNECTIONS, |limit| (limit / SHARE_OF_DESCRIPTORS).clamp(1, MOST_CONNECTIONS))
}

/// The soft limit on open files in the text of `/proc/self/limits`; `None` if there is none.
fn open_files(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// Answers requests until `stopped`, and those that have begun to the end.
pub(super) async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    scrapes: watch::Sender<Scrapes>,
    stopped: impl Future,
) {
    let connections = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(most_connections()));
    let listens_on = listener.local_addr().map(|address| address.ip()).ok();
    // One request a connection: nothing is to be kept open between scrapes.
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(LONGEST_HEAD);
    let mut stopped = pin!(stopped);
    loop {
        let accept = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            _ = &mut stopped => break,
            accepted = accept => accepted,
        };
        let Ok((stream, _)) = stream else {
            // Out of file handles, for example: that passes.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handle, scrapes) = (handle.clone(), scrapes.clone());
        let service = service_fn(move |request| {
            let answer = answer(&request, listens_on, &handle, &scrapes);
            async move { Ok::<_, Infallible>(answer) }
        });
        // A reader that goes away is no concern of the run.
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _ = timeout(LONGEST_CONNECTION, connection).await;
            drop(permit);
        });
    }
    drop(listener);
    // A reader that stops reading does not hold up the program.
    let _ = timeout(LONGEST_ANSWER, connections.shutdown()).await;
}

fn answer(
    request: &Request<Incoming>,
    listens_on: Option<IpAddr>,
    handle: &PrometheusHandle,
    scrapes: &watch::Sender<Scrapes>,
) -> Response<Full<Bytes>> {
    let refused = |status: StatusCode, text: &'static str| {
        let mut refused = Response::new(Full::from(text));
        *refused.status_mut() = status;
        refused
    };
    match hosts(request) {
        None => return refused(StatusCode::BAD_REQUEST, "expected one Host\n"),
        Some(hosts) if !hosts.iter().all(|host| is_own(host, listens_on)) => {
            return refused(StatusCode::MISDIRECTED_REQUEST, "expected the Host that metrics are served on\n");
        }
        Some(_) => {}
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = refused(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if request.uri().path() != "/metrics" {
        return refused(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    let mut page = Response::new(Full::from(handle.render()));
    page.headers_mut().insert(CONTENT_TYPE, TEXT);
    if request.method() == Method::GET && request.headers().contains_key(SCRAPERS_HEADER) {
        scrapes.send_modify(|scrapes| *scrapes = scrapes.another_at(Instant::now()));
    }
    page
}

/// Whom a request is meant for: its `Host` and, where it names a whole address, that one. `None` without exactly one `Host`.
fn hosts(request: &Request<Incoming>) -> Option<Vec<Authority>> {
    let mut named = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return None };
    let host = Authority::try_from(host.as_bytes()).ok()?;
    Some([Some(host), request.uri().authority().cloned()].into_iter().flatten().collect())
}

/// Whether a host is one that the listener goes by: its own address, and `localhost` on loopback. A page of another site, whose
/// name somebody let resolve to this machine (DNS rebinding), comes under that name, which is refused. A listener on all
/// addresses goes by each of them. The port is left alone: it is another one behind a tunnel.
fn is_own(host: &Authority, listens_on: Option<IpAddr>) -> bool {
    let Some(listens_on) = listens_on.map(|address| address.to_canonical()) else { return false };
    let name = host.host();
    let open = listens_on.is_loopback() || listens_on.is_unspecified();
    if name.eq_ignore_ascii_case("localhost") {
        return open && !host.as_str().contains('@');
    }
    let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else { return false };
    let address = address.to_canonical();
    let is_here =
        address == listens_on || listens_on.is_unspecified() || (listens_on.is_loopback() && address.is_loopback());
    is_here && !host.as_str().contains('@')
}

/// The next scrape that may be hoped for: until when, and what returns when it has come or is late. `None` where nobody
/// scrapes.
pub(super) fn next(mut scrapes: watch::Receiver<Scrapes>) -> Option<(Duration, impl Future<Output = ()>)> {
    let now = Instant::now();
    let latest = scrapes.borrow_and_update().next_until(now)?;
    Some((latest - now, async move {
        let _ = timeout_at(latest, scrapes.changed()).await;
    }))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;
    use crate::telemetry::{Exposure, Telemetry, TelemetryError};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_scrapes_at_intervals_is_waited_for_an_interval_and_a_half() {
        let start = Instant::now();
        let once = Scrapes::default().another_at(start);
        assert_eq!(once.next_until(start), None, "once is no interval");
        let twice = once.another_at(start + 4 * SECOND);
        assert_eq!(twice.next_until(start + 5 * SECOND), Some(start + 10 * SECOND));
        assert_eq!(twice.next_until(start + 10 * SECOND), None, "it has gone");
        let missed = twice.another_at(start + 100 * SECOND);
        assert_eq!(missed.next_until(start + 101 * SECOND), Some(start + 106 * SECOND));
        let rarely = missed.another_at(start + 200 * SECOND);
        assert_eq!(rarely.next_until(start + 201 * SECOND), None);
        let two_readers = twice.another_at(start + 5 * SECOND);
        assert_eq!(two_readers.next_until(start + 8 * SECOND), Some(start + 11 * SECOND));
    }

    /// What the server at `address` answers. `headers` end in a line break each.
    fn get(address: SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[tokio::test]
    async fn a_prometheus_that_scrapes_is_waited_for_and_a_person_is_not() {
        let scrape = |address| get(address, "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 10\r\n");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let telemetry = Telemetry::install(address, Exposure::Loopback).unwrap();
        for _ in 0..3 {
            get(address, "/metrics", "");
        }
        assert!(telemetry.next_scrape().is_none(), "nobody scrapes");
        assert!(get(address, "/elsewhere", "").starts_with("HTTP/1.1 404"));

        scrape(address);
        thread::sleep(Duration::from_secs(2));
        scrape(address);
        let (longest, scraped) = telemetry.next_scrape().expect("somebody scrapes every two seconds");
        assert!(longest > Duration::from_secs(1) && longest < Duration::from_mins(1), "{longest:?}");
        let began = Instant::now();
        let last = thread::spawn(move || scrape(address));
        scraped.await;
        assert!(began.elapsed() < longest / 2, "it was not noticed");
        // The program may end now, and the answer arrives all the same.
        drop(telemetry);
        assert!(last.join().unwrap().contains("fedward_process_resident_memory_bytes "));
    }

    /// The status line that the server at `address` answers with, and its headers.
    fn head(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase()
    }

    #[test]
    fn only_readers_that_name_this_machine_are_answered() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let _telemetry = Telemetry::install(address, Exposure::Loopback).unwrap();
        let port = address.port();
        for host in ["localhost", "LocalHost", "127.0.0.1", "[::1]", "127.0.0.2", "[::ffff:127.0.0.1]"] {
            for host in [host.to_owned(), format!("{host}:{port}")] {
                let head = head(address, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                assert!(head.starts_with("http/1.1 200"), "{host}: {head}");
            }
        }
        let own = format!("GET http://{address}/metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
        assert!(head(address, &own).starts_with("http/1.1 200"));
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: plum.example\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: localhost.plum.example\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: localhost@plum.example\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: plum.example@localhost\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 421),
            ("GET http://plum.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
            ("POST /metrics HTTP/1.1\r\nHost: plum.example\r\n\r\n", 421),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            ("GET /metrics HTTP/1.1\r\n\r\n", 400),
            ("GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ] {
            let head = head(address, request);
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PLUM"] {
            let head = head(address, &format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!(head.starts_with("http/1.1 405") && head.contains("\r\nallow: get, head\r\n"), "{method}: {head}");
        }
        let head = head(address, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(
            head.starts_with("http/1.1 200") && head.contains("content-length: ") && head.contains("connection: close")
        );
    }

    #[test]
    fn a_listener_goes_by_its_own_address() {
        let own = |host: &'static str, on: &str| is_own(&Authority::from_static(host), Some(on.parse().unwrap()));
        assert!(own("192.0.2.7:9464", "192.0.2.7") && own("[2001:db8::1]", "2001:db8::1"));
        assert!(
            !own("192.0.2.8:9464", "192.0.2.7") && !own("localhost", "192.0.2.7") && !own("127.0.0.1", "192.0.2.7")
        );
        assert!(own("192.0.2.8:9464", "0.0.0.0") && own("[2001:db8::1]", "::") && own("localhost:1", "0.0.0.0"));
        assert!(!own("plum.example", "0.0.0.0") && !own("plum.example:9464", "::"));
        assert!(!is_own(&Authority::from_static("localhost"), None));
    }

    #[test]
    fn the_limit_on_open_files_is_read_as_linux_writes_it() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024", "unlimited")), None);
        assert_eq!(open_files(""), None);
        assert!((1..=MOST_CONNECTIONS).contains(&most_connections()));
    }

    #[test]
    fn metrics_are_served_until_the_last_handle_goes() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let telemetry = Telemetry::install(address, Exposure::Loopback).unwrap();
        let other = telemetry.clone();
        drop(telemetry);
        let answer = get(address, "/metrics", "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("fedward_process_resident_memory_bytes "), "{answer}");

        let taken = Telemetry::install(address, Exposure::Loopback).err().unwrap();
        assert!(matches!(taken, TelemetryError::Listen { .. }), "{taken}");
        drop(other);
        let closed = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            TcpListener::bind(address).is_ok()
        });
        assert!(closed, "{address} is still listened on");
    }
}
