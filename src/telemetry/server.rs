//! Serves the metrics over HTTP, and knows when they were last read.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Prometheus reads every minute if nobody tells it otherwise; who reads much less often is not waited for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(90);

/// A scrape may come so much late, on a busy machine.
const SHORTEST_DELAY: Duration = Duration::from_secs(1);

/// What an answer that has begun may take at the end.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);

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

/// Answers requests until `stopped`, and those that have begun to the end.
pub(super) async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    scrapes: watch::Sender<Scrapes>,
    stopped: impl Future,
) {
    let connections = GracefulShutdown::new();
    let mut stopped = pin!(stopped);
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            // Out of file handles, for example: that passes.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handle, scrapes) = (handle.clone(), scrapes.clone());
        let service = service_fn(move |request| {
            let answer = answer(&request, &handle, &scrapes);
            async move { Ok::<_, Infallible>(answer) }
        });
        // A reader that goes away is no concern of the run.
        tokio::spawn(connections.watch(http1::Builder::new().serve_connection(TokioIo::new(stream), service)));
    }
    drop(listener);
    // A reader that stops reading does not hold up the program.
    let _ = timeout(LONGEST_ANSWER, connections.shutdown()).await;
}

fn answer(
    request: &Request<Incoming>,
    handle: &PrometheusHandle,
    scrapes: &watch::Sender<Scrapes>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        let mut missing = Response::new(Full::from("metrics are at /metrics\n"));
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    }
    let mut page = Response::new(Full::from(handle.render()));
    page.headers_mut().insert(CONTENT_TYPE, TEXT);
    if request.headers().contains_key(SCRAPERS_HEADER) {
        scrapes.send_modify(|scrapes| *scrapes = scrapes.another_at(Instant::now()));
    }
    page
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
