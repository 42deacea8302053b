//! Serves the metrics over HTTP, and knows when they were last read.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout_at},
};

/// Prometheus reads every minute if nobody tells it otherwise; who reads much less often is not waited for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(90);

/// Sent by Prometheus and by what scrapes in its place; a person at a browser is not waited for.
const SCRAPERS_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// Prometheus's text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// When the metrics were scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scrapes {
    last: Option<Instant>,
    /// Between the last two.
    interval: Option<Duration>,
}

impl Scrapes {
    fn another_at(self, now: Instant) -> Self {
        Self { last: Some(now), interval: self.last.map(|last| now - last) }
    }

    /// Until when another one may be hoped for at `now`; `None` where nobody reads at intervals, or nobody does any longer.
    fn next_until(self, now: Instant) -> Option<Instant> {
        let interval = self.interval.filter(|interval| *interval <= LONGEST_INTERVAL)?;
        // Half an interval late is late for a scrape: the reader has gone.
        let latest = self.last? + interval.mul_f64(1.5);
        (latest > now).then_some(latest)
    }
}

/// A listener on `address`.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers every request to `/metrics`, and never ends by itself.
pub(super) async fn serve(listener: TcpListener, handle: PrometheusHandle, scrapes: watch::Sender<Scrapes>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, for example: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handle, scrapes) = (handle.clone(), scrapes.clone());
        let service = service_fn(move |request| {
            let answer = answer(&request, &handle, &scrapes);
            async move { Ok::<_, Infallible>(answer) }
        });
        // A reader that goes away is no concern of the run.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(
    request: &Request<Incoming>,
    handle: &PrometheusHandle,
    scrapes: &watch::Sender<Scrapes>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/", "/metrics"].contains(&path) {
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
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_scrapes_at_intervals_is_waited_for_an_interval_and_a_half() {
        let start = Instant::now();
        let once = Scrapes::default().another_at(start);
        assert_eq!(once.next_until(start), None, "once is no interval");
        let twice = once.another_at(start + 4 * SECOND);
        assert_eq!(twice.next_until(start + 5 * SECOND), Some(start + 10 * SECOND));
        assert_eq!(twice.next_until(start + 10 * SECOND), None, "it has gone");
        let rarely = twice.another_at(start + 100 * SECOND);
        assert_eq!(rarely.next_until(start + 101 * SECOND), None);
    }
}
