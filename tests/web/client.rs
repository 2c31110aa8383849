//! A plain protocol client for the live page.

use neural_mirage::image_io::Picture;
use neural_mirage::web::{Command, Group, GroupReport, LivePage, Options, Report, Scale, Start};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

/// Guards against hangs; not a measure of speed.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Starts a live page; returns it with its commands.
pub fn open() -> (LivePage, Receiver<Command>) {
    let (sender, commands) = channel();
    let page = LivePage::open(&Options::default(), move |command| {
        // The receiver is dropped only at the end of the test.
        let _ = sender.send(command);
    })
    .unwrap();
    (page, commands)
}

/// Two groups with adjustable shares, and two with given weights.
pub const GROUPS: [Group<'_>; 4] = [
    Group { name: "layout", about: "where things are", share: Some(0.25), adjustable: true },
    Group { name: "brush strokes", about: "", share: Some(0.75), adjustable: true },
    Group { name: "pinned", about: "", share: None, adjustable: false },
    Group { name: "smooth", about: "", share: None, adjustable: false },
];

/// Begins a run of 100 iterations in three scales.
pub fn begin(page: &LivePage, photo: &Picture) {
    let scale = |part: usize, first, end| {
        let [width, height] = [photo.width, photo.height].map(|side| side.div_ceil(part));
        Scale { width, height, first, end, work: (width * height) as u64, preparing: 0 }
    };
    page.begin(&Start {
        scales: vec![scale(4, 0, 50), scale(2, 50, 80), scale(1, 80, 100)],
        groups: &GROUPS,
        photo_classes: &[("dock".into(), 0.5)],
        ..Start::new("photo.jpg", photo, 100)
    });
}

pub fn report(iteration: u32) -> Report {
    let group = GroupReport {
        name: "layout".into(),
        loss: 2.0,
        loss_share: Some(1.0),
        gradient_share: Some(f32::NAN),
    };
    Report {
        iteration,
        seconds: 0.5,
        total: 2.0,
        groups: vec![group],
        classes: vec![("boat".into(), 0.25)],
        class_distance: Some(0.1),
        change: None,
    }
}

/// Returns host and port, and the token.
pub fn address(page: &LivePage) -> (String, String) {
    let (host, token) = page.url().strip_prefix("http://").unwrap().split_once("/#token=").unwrap();
    assert_eq!(token.len(), 32);
    (host.to_owned(), token.to_owned())
}

/// Sends text over TCP and reads until the server closes the connection.
pub fn raw(host: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The server may close before everything is sent.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_is_end(&error);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Fails if the connection is still open. A reset counts as closed like an orderly end, a timeout does not.
#[track_caller]
fn assert_is_end(error: &std::io::Error) {
    let is_open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!is_open, "the server does not close the connection: {error}");
}

pub fn get(host: &str, path: &str, headers: &str) -> String {
    raw(host, &format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

/// A viewer's WebSocket connection.
pub struct Viewer(pub WebSocket<TcpStream>);

impl Viewer {
    pub fn connect(host: &str, origin: Option<&str>, name: &str) -> Result<Self, Box<tungstenite::Error>> {
        let mut request = format!("ws://{host}/live").into_client_request().unwrap();
        request.headers_mut().insert("Host", name.parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects like the page itself.
    pub fn open(host: &str, token: &str) -> Self {
        let mut viewer = Self::connect(host, Some(&format!("http://{host}")), host).unwrap();
        viewer.send(&json!({ "type": "hello", "token": token }));
        viewer
    }

    pub fn send(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).unwrap();
    }

    /// Returns the next text message of a type.
    pub fn text(&mut self, kind: &str) -> Value {
        loop {
            if let Message::Text(text) = self.0.read().unwrap_or_else(|error| panic!("{kind}: {error}")) {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        }
    }

    /// Reads until the server ends the connection, and returns what came before.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<Message> {
        let (mut messages, start) = (Vec::new(), Instant::now());
        loop {
            // Heartbeats arrive while the connection is open.
            assert!(start.elapsed() < 6 * LIMIT, "the server does not close the connection");
            match self.0.read() {
                Ok(message) => messages.push(message),
                Err(error) => {
                    if let tungstenite::Error::Io(error) = &error {
                        assert_is_end(error);
                    }
                    return messages;
                }
            }
        }
    }

    /// Returns iteration and JPEG of the next picture of a kind.
    pub fn picture(&mut self, kind: u8) -> (u32, Vec<u8>) {
        loop {
            if let Message::Binary(bytes) = self.0.read().unwrap()
                && bytes[0] == kind
            {
                assert_eq!(bytes[12..14], [0xff, 0xd8], "a JPEG file");
                return (u32::from_le_bytes(bytes[4..8].try_into().unwrap()), bytes[12..].to_vec());
            }
        }
    }
}

pub fn status(result: Result<Viewer, Box<tungstenite::Error>>) -> u16 {
    match result.map_err(|error| *error) {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    }
}
