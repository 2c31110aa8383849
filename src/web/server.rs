//! The HTTP server for the page's files and the WebSocket.

use super::shared::Shared;
use super::viewer;
use crate::error::{Error, Result};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Timeout for receiving a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// Timeout for a request and its response.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Maximum size of a request's head, in bytes.
const HEAD_SIZE: usize = 16 << 10;
/// Maximum number of connections that are not viewers yet; further ones are closed.
const CONNECTIONS: usize = 64;
/// Maximum number of viewers.
const VIEWERS: usize = 32;
/// Largest message from a viewer, in bytes: enough for the shares of a hundred groups.
const MESSAGE: usize = 4096;
/// Timeout for the server's thread to end.
const STOP: Duration = Duration::from_secs(1);

/// Path, content type and content of all served files.
const ASSETS: [(&str, &str, &str); 10] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/main.js", "text/javascript; charset=utf-8", include_str!("page/main.js")),
    ("/stage.js", "text/javascript; charset=utf-8", include_str!("page/stage.js")),
    ("/controls.js", "text/javascript; charset=utf-8", include_str!("page/controls.js")),
    ("/shares.js", "text/javascript; charset=utf-8", include_str!("page/shares.js")),
    ("/curves.js", "text/javascript; charset=utf-8", include_str!("page/curves.js")),
    ("/classes.js", "text/javascript; charset=utf-8", include_str!("page/classes.js")),
    ("/ui.js", "text/javascript; charset=utf-8", include_str!("page/ui.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// The server's thread.
#[derive(Debug)]
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
}

impl Server {
    /// Starts the server.
    ///
    /// # Errors
    /// [`Error::Io`] if the thread can't be started or the socket can't be used.
    pub fn start(listener: TcpListener, shared: Shared) -> Result<Self> {
        let place = Path::new("the live page");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io(place, "starting the server"))?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(Error::io(place, "starting the server"))?
        };
        let (stop, stopping) = oneshot::channel();
        let (ended, stopped) = mpsc::channel();
        std::thread::Builder::new()
            .name("live page".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(&listener, router(Arc::new(shared))) => {}
                        // By `stop`, or because the page was dropped.
                        _ = stopping => {}
                    }
                });
                // Ends all connections.
                drop((runtime, listener));
                // The receiver may have given up waiting.
                let _ = ended.send(());
            })
            .map_err(Error::io(place, "starting a thread for the server"))?;
        Ok(Self { stop: Some(stop), stopped })
    }

    /// Stops the server and closes all of its connections.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Either may fail only if the thread has ended.
            let _ = stop.send(());
            let _ = self.stopped.recv_timeout(STOP);
        }
    }
}

async fn accept(listener: &tokio::net::TcpListener, router: Router) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // The peer is gone, or this process has too many open files: both are temporary.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = limit.clone().try_acquire_owned() else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::spawn(async move {
            let _permit = permit;
            // A connection that fails or takes too long needs no handling. One that became a viewer continues in its
            // own task.
            drop(tokio::time::timeout(EXCHANGE, connection).await);
        });
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (path, kind, content) in ASSETS {
        router = router.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], content) }));
    }
    let viewers = Arc::new(Semaphore::new(VIEWERS));
    let watch = |State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade| async move {
        let Ok(permit) = viewers.try_acquire_owned() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "Too many viewers.").into_response();
        };
        upgrade.max_message_size(MESSAGE).max_frame_size(MESSAGE).on_upgrade(|socket| async move {
            let _permit = permit;
            viewer::serve(socket, &shared).await;
        })
    };
    router
        .route("/live", get(watch))
        .fallback(|| async { (StatusCode::NOT_FOUND, "Not found.") })
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Rejects requests that don't come from the page itself, and adds the headers that isolate the page.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_live = Uri::path(request.uri()) == "/live";
    let (host, mut response) = match shared.access.check(request.headers(), is_live) {
        Ok(host) => (host.to_owned(), next.run(request).await),
        Err(reason) => (String::new(), (StatusCode::FORBIDDEN, reason).into_response()),
    };
    // In some browsers 'self' doesn't include a WebSocket of the same origin.
    let socket = if host.is_empty() { String::new() } else { format!(" ws://{host}") };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'{socket}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    if !upgrades {
        // An idle connection would count against the limit.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let none = HeaderValue::from_static("default-src 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).unwrap_or(none));
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
