//! The live page: shows a run in browsers while it paints, and lets viewers control it.
//!
//! [`LivePage::open`] serves one page with all of its assets, from its own threads. The run reports its progress
//! ([`LivePage::report`], [`LivePage::picture`], ...) and never waits: a call stores the new state and returns.
//! Viewers read that state at their own pace; a viewer that connects late gets everything it needs.
//!
//! ```no_run
//! use neural_mirage::image_io::Picture;
//! use neural_mirage::web::{LivePage, Options, Start};
//! use std::sync::mpsc;
//!
//! fn paint(photo: &Picture) -> neural_mirage::Result<()> {
//!     let (sender, commands) = mpsc::channel();
//!     // The receiver is gone only when the run is over.
//!     let page = LivePage::open(&Options::default(), move |command| {
//!         let _ = sender.send(command);
//!     })?;
//!     println!("Live page: {}", page.url());
//!     page.begin(&Start::new("photo.jpg", photo, 100));
//!     for iteration in 1..=100 {
//!         for command in commands.try_iter() {
//!             println!("{command:?}");
//!         }
//!         page.progress(iteration, f64::from(iteration) * 0.2);
//!         if page.wants_pictures() {
//!             page.picture(iteration, photo);
//!         }
//!     }
//!     page.end("finished", "mirage.png");
//!     Ok(())
//! }
//! ```
//!
//! # Access
//! - The server listens on 127.0.0.1 by default, and only accepts requests whose Host is an address it listens on or
//!   `localhost`: a web site can't reach it by pointing its own name at 127.0.0.1 (DNS rebinding).
//! - Requests from pages of another origin are refused, and so are WebSocket handshakes without an origin.
//! - Anyone who can reach the server may watch. Commands require the token in the fragment of [`LivePage::url`].
//!   Browsers do not send the fragment to servers. The token is compared in constant time.
//! - The page loads nothing from other servers, and its Content-Security-Policy forbids it.
//! - Requests, messages, connections and waiting times are limited (see `server.rs` and `viewer.rs`), and so is
//!   the history of a long run (see `history.rs`).

mod access;
mod encoder;
mod history;
mod message;
mod server;
mod shared;
mod viewer;

use crate::error::Result;
use crate::image_io::Picture;
use access::Access;
use encoder::{Encoder, Frame};
use history::History;
use message::Latest;
pub use message::{GroupReport, Report, Scale};
use server::Server;
use shared::Shared;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Timeout of [`LivePage::end`] for encoding the last picture, and again for sending it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Address to listen on. Any other than a loopback address lets others in the network watch.
    pub host: IpAddr,
    /// Port to listen on; 0 uses any free one.
    pub port: u16,
}

impl Default for Options {
    /// Returns 127.0.0.1 and any free port.
    fn default() -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0 }
    }
}

/// A command from a viewer with the token.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Pause after the current iteration; confirm with [`LivePage::paused`].
    Pause,
    /// Continue; confirm with [`LivePage::paused`].
    Resume,
    /// Save the current picture; confirm with [`LivePage::note`].
    Save,
    /// Save the picture and end after the current iteration; confirm with [`LivePage::end`].
    Stop,
    /// Use these shares of the gradient for the adjustable groups from now on; confirm with [`LivePage::weights`].
    /// There is one share for each of them, in any order and unit. The shares are finite, not negative and not all
    /// zero.
    Shares(Vec<(String, f32)>),
}

/// A group of losses at the start of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group<'a> {
    /// Name of the group.
    pub name: &'a str,
    /// Short description; may be empty.
    pub about: &'a str,
    /// Share of the gradient as a fraction of 1; `None` if the group has a fixed weight.
    pub share: Option<f32>,
    /// True if the share can be changed during the run, as for every group with a share.
    pub adjustable: bool,
}

/// The start of a run.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Name of the photo.
    pub title: &'a str,
    /// Adapter, backend and driver.
    pub device: &'a str,
    /// The photo, with the aspect ratio of the painted picture.
    pub photo: &'a Picture,
    /// Scales of the run, the smallest first; at least one.
    pub scales: Vec<Scale>,
    /// Groups of losses, in display order.
    pub groups: &'a [Group<'a>],
    /// Top classes of the photo, label and probability, most probable first; empty without fc layers.
    pub photo_classes: &'a [(String, f32)],
}

impl<'a> Start<'a> {
    /// Creates a run at the photo's size, without groups.
    pub fn new(title: &'a str, photo: &'a Picture, iterations: u32) -> Self {
        let (width, height) = (photo.width, photo.height);
        let scale = Scale { width, height, first: 0, end: iterations, work: 1, preparing: 0 };
        Self { title, device: "", photo, scales: vec![scale], groups: &[], photo_classes: &[] }
    }
}

/// The live page of a run. Calls don't block, except [`LivePage::end`]; messages are sent from other threads. If it is
/// dropped without [`LivePage::end`], the page shows that the run failed.
#[derive(Debug)]
pub struct LivePage {
    history: Arc<History>,
    encoder: Arc<Encoder>,
    server: Server,
    url: String,
}

impl LivePage {
    /// Starts the server. `commands` is called from one of its threads and must not block.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if the server can't listen on the address, e.g. because the port is in
    /// use; [`Error::Io`](crate::Error::Io) if the system can't provide random numbers or threads.
    pub fn open(options: &Options, commands: impl Fn(Command) + Send + Sync + 'static) -> Result<Self> {
        let listener = access::bind(options)?;
        let access = Access::new(&listener)?;
        let url = access.url();
        let history = Arc::new(History::default());
        let encoder = Encoder::start(history.clone())?;
        let shared = Shared {
            access,
            history: history.clone(),
            encoder: encoder.clone(),
            commands: Box::new(commands),
        };
        let server = Server::start(listener, shared).inspect_err(|_| encoder.finish(Instant::now()))?;
        Ok(Self { history, encoder, server, url })
    }

    /// Returns the URL of the page, with the token that permits control of the run.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts a run, the first or a further one; the page drops an earlier one.
    pub fn begin(&self, start: &Start<'_>) {
        self.encoder.forget();
        self.history.begin(start);
        self.show(start.photo, |frame| self.encoder.photo(frame));
    }

    /// Reports that a scale of [`Start::scales`] begins, counted from 0. Pictures have its size from then on.
    pub fn scale(&self, index: usize) {
        self.history.scale(index);
    }

    /// Reports measured losses, shares and classes.
    pub fn report(&self, report: &Report) {
        self.history.report(report);
    }

    /// Reports the shares (by group, as fractions of 1; empty if all weights are fixed) and weights in effect after
    /// `iteration` iterations.
    pub fn weights(&self, iteration: u32, shares: &[(&str, f32)], weights: &[(&str, f32)]) {
        self.history.weights(iteration, shares, weights);
    }

    /// Reports that `iteration` iterations are completed, `seconds` after the first began.
    pub fn progress(&self, iteration: u32, seconds: f64) {
        self.history.progress(iteration, seconds);
    }

    /// Shows the picture after `iteration` iterations. It is copied (as 8 bit values) and replaces an earlier one that
    /// is not yet encoded. It is encoded only while there are viewers.
    pub fn picture(&self, iteration: u32, picture: &Picture) {
        self.show(picture, |frame| self.encoder.picture(iteration, frame));
    }

    /// Adds a snapshot to the strip: the picture after `iteration` iterations, the file it was saved as, and its top
    /// classes (label and probability; may be empty). If there are many, an evenly spread selection is kept.
    pub fn snapshot(&self, iteration: u32, picture: &Picture, path: &str, classes: &[(String, f32)]) {
        let about = message::Snapshot::new(iteration, path, classes);
        self.show(picture, |frame| self.encoder.snapshot(about, frame));
    }

    /// Shows a text to the viewers, such as the name of a saved file.
    pub fn note(&self, text: &str) {
        self.history.note(text);
    }

    /// Reports that the run is paused or continues.
    pub fn paused(&self, paused: bool) {
        self.history.paused(paused);
    }

    /// Returns true if there are viewers and a new picture would be encoded immediately. A run that checks this before
    /// it reads a picture back from the device avoids useless transfers.
    pub fn wants_pictures(&self) -> bool {
        self.history.viewers() > 0 && self.encoder.is_free()
    }

    /// Ends the run. Sends all viewers the ending (`finished`, `settled`, `stopped`, `failed` or a sentence) and the
    /// path of the saved picture, waits at most about two seconds until they have received it, and shuts down.
    pub fn end(mut self, ending: &str, output: &str) {
        self.close(ending, output);
    }

    fn close(&mut self, ending: &str, output: &str) {
        self.encoder.finish(Instant::now() + CLOSE_TIMEOUT);
        self.history.end(ending, output);
        self.history.wait_for_viewers(Instant::now() + CLOSE_TIMEOUT);
        self.server.stop();
    }

    /// Copies a picture and passes it to `show`.
    fn show(&self, picture: &Picture, show: impl FnOnce(Frame)) {
        match picture.check() {
            Ok(()) => show(Frame::new(picture)),
            Err(error) => self.history.note(&format!("A picture can't be shown: {error}")),
        }
    }
}

impl Drop for LivePage {
    fn drop(&mut self) {
        if !self.history.has(Latest::End) {
            self.close("failed", "");
        }
    }
}
