//! A headless browser with one page, and the server for that page.

use crate::common::chromium::Chromium;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Longest pause of the browser within a request.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options for WebGPU on the browser's software adapter.
const WEBGPU: [&str; 5] = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--use-angle=swiftshader",
];

/// Opens `page` in a browser. `jobs` answers what the page posts to `/jobs`; the body posted to `/results` is
/// returned. Panics after `limit`, with the last message posted to `/progress`.
pub fn visit(
    page: &'static str,
    jobs: impl Fn(&str) -> String + Send + Sync + 'static,
    limit: Duration,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut browser =
        Chromium::start(&format!("http://{}/", listener.local_addr().unwrap()), folder.path(), &WEBGPU);
    let jobs = Arc::new(jobs);
    let (sender, receiver) = mpsc::channel();
    let progress = Arc::new(Mutex::new("nothing yet".to_owned()));
    let start = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            let (jobs, sender, progress) = (jobs.clone(), sender.clone(), progress.clone());
            // One thread per connection: browsers open connections in advance and leave them idle.
            std::thread::spawn(move || {
                // The browser retries a broken connection, or the limit is reached.
                drop(serve(stream, page, jobs.as_ref(), &sender, &progress));
            });
        }
        if let Ok(results) = receiver.try_recv() {
            return results;
        }
        let ended = browser.0.try_wait().unwrap();
        if ended.is_some() || start.elapsed() > limit {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            panic!(
                "no results from the page after {:?} (browser ended: {ended:?}); its last word: {}; the \
                 browser's log, latest first:\n{}",
                start.elapsed(),
                progress.lock().unwrap_or_else(PoisonError::into_inner),
                tail.join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Answers one request.
fn serve(
    stream: TcpStream,
    page: &str,
    jobs: &(impl Fn(&str) -> String + ?Sized),
    results: &mpsc::Sender<String>,
    progress: &Mutex<String>,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut words = request.split(' ');
    let (status, kind, answer) = match (words.next(), words.next()) {
        (Some("GET"), Some("/")) => ("200 OK", "text/html", page.to_owned()),
        (Some("POST"), Some("/jobs")) => ("200 OK", "application/json", jobs(&body)),
        (Some("POST"), Some("/progress")) => {
            *progress.lock().unwrap_or_else(PoisonError::into_inner) = body;
            ("200 OK", "text/plain", String::new())
        }
        (Some("POST"), Some("/results")) => {
            // The receiver is gone only if the visit is over.
            drop(results.send(body));
            ("200 OK", "text/plain", String::new())
        }
        _ => ("404 Not Found", "text/plain", String::new()),
    };
    let stream = reader.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )?;
    stream.flush()
}
