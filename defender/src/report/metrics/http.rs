//! The HTTP server: three pages, few clients, and no patience.

use std::{collections::VecDeque, convert::Infallible, pin::pin, rc::Rc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    task::{JoinHandle, spawn_local},
    time::{sleep, timeout},
};

use super::{
    page::Format,
    socket::{Socket, Stream},
};

/// So many clients are served at once. One more takes the place of the one that has taken longest.
const MOST_CLIENTS: usize = 32;
/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take for everything.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a client could not be accepted, as when there are no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// What may be asked for.
const METHODS: [Method; 2] = [Method::GET, Method::HEAD];

const PLAIN: &str = "text/plain; charset=utf-8";

/// What is served.
pub(super) trait Pages {
    /// `/metrics`.
    fn metrics(&self, format: Format) -> Bytes;
    /// `/healthz`: nothing, or what is wrong with this process.
    fn health(&self) -> Result<(), String>;
    /// `/readyz`: nothing, or why this host is not defended.
    fn readiness(&self) -> Result<(), String>;
}

/// Serves clients, for ever.
pub(super) async fn serve(socket: Socket, pages: Rc<impl Pages + 'static>) {
    let mut clients = Clients::default();
    loop {
        match socket.accept().await {
            Ok(stream) => clients.add(spawn_local(client(stream, Rc::clone(&pages)))),
            Err(error) => {
                log::debug!("metrics: cannot accept a client: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Those who are served, the oldest first. Dropped, they are served no longer.
#[derive(Default)]
struct Clients(VecDeque<JoinHandle<()>>);

impl Clients {
    fn add(&mut self, client: JoinHandle<()>) {
        self.0.retain(|client| !client.is_finished());
        if self.0.len() >= MOST_CLIENTS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(client);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn client(stream: Box<dyn Stream>, pages: Rc<impl Pages>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, pages.as_ref());
        async { Ok::<_, Infallible>(response) }
    });
    // One request each: who stays connected would take the place of others.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(DEADLINE, pin!(connection)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("metrics: a client was not served: {error}"),
        Err(_) => log::debug!("metrics: a client was too slow"),
    }
}

fn answer<B>(request: &Request<B>, pages: &impl Pages) -> Response<Full<Bytes>> {
    let page: fn(&Request<B>, &_) -> _ = match request.uri().path() {
        "/metrics" => metrics,
        "/healthz" => |_, pages| probe(Pages::health(pages)),
        "/readyz" => |_, pages| probe(Pages::readiness(pages)),
        _ => return text(StatusCode::NOT_FOUND, "no such page: /metrics, /healthz, /readyz\n"),
    };
    if METHODS.contains(request.method()) { page(request, pages) } else { not_allowed() }
}

fn metrics<B>(request: &Request<B>, pages: &impl Pages) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    response(StatusCode::OK, format.content_type(), pages.metrics(format))
}

fn probe(found: Result<(), String>) -> Response<Full<Bytes>> {
    match found {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    }
}

fn not_allowed() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, PLAIN, Bytes::copy_from_slice(text.as_bytes()))
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unready;

    impl Pages for Unready {
        fn metrics(&self, _: Format) -> Bytes {
            Bytes::from_static(b"metrics")
        }

        fn health(&self) -> Result<(), String> {
            Ok(())
        }

        fn readiness(&self) -> Result<(), String> {
            Err("eth0 is down".into())
        }
    }

    #[test]
    fn three_pages_can_be_read_and_nothing_else_is_done() {
        for (method, path, status) in [
            (Method::GET, "/metrics", 200),
            (Method::HEAD, "/metrics?name=x", 200),
            (Method::GET, "/healthz", 200),
            (Method::GET, "/readyz", 503),
            (Method::GET, "/", 404),
            (Method::GET, "/metrics/", 404),
            (Method::POST, "/nothing", 404),
            (Method::POST, "/metrics", 405),
            (Method::DELETE, "/readyz", 405),
        ] {
            let request = Request::builder().method(&method).uri(path).body(()).expect("a request");
            let response = answer(&request, &Unready);
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(response.headers().contains_key(ALLOW), status == 405);
        }
    }
}
