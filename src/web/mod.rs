//! The live page: a run shown in browsers while it paints, and controlled from them.
//!
//! [`LivePage::open`] serves one page, with all of its assets, from threads of its own. The run reports what
//! happens ([`LivePage::report`], [`LivePage::picture`], ...) and never waits for it: a call stores what is new, or
//! replaces what is older, and returns. Viewers read from that store at their own pace; each gets all it needs on
//! connection, however late.
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
//! - The server listens on 127.0.0.1 by default, and answers only requests that name it by an address it
//!   listens on or as `localhost`: a web site can't reach it by pointing a name of its own at 127.0.0.1.
//! - A request from a page of another origin is refused, and so is a WebSocket handshake without an origin.
//! - Anyone who can reach the server may watch. Commands need the token in the fragment of [`LivePage::url`], which
//!   browsers never send to a server by themselves; it is compared in constant time.
//! - The page loads nothing from elsewhere, and its Content-Security-Policy forbids it to.
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

/// Longest that [`LivePage::end`] waits for the last picture to be encoded, and again for it to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the page is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Address to listen on. Any but a loopback address lets others in the network watch.
    pub host: IpAddr,
    /// Port to listen on; 0 takes any free one.
    pub port: u16,
}

impl Default for Options {
    /// 127.0.0.1, any free port.
    fn default() -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0 }
    }
}

/// A command of a viewer with the token.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Pause after the present iteration; answered with [`LivePage::paused`].
    Pause,
    /// Go on; answered with [`LivePage::paused`].
    Resume,
    /// Save the present picture now; answered with [`LivePage::note`].
    Save,
    /// End after the present iteration, with the picture saved; answered with [`LivePage::end`].
    Stop,
    /// Give the adjustable groups these shares of the gradient from now on; answered with [`LivePage::weights`].
    /// There is one share for each of them, in any order and unit; the shares are finite, not negative and not all
    /// zero.
    Shares(Vec<(String, f32)>),
}

/// A group of losses, as a run starts with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is about, in a few words; may be empty.
    pub about: &'a str,
    /// Its share of the gradient as a fraction of 1; `None` if its weight is given.
    pub share: Option<f32>,
    /// True if its share can be set while the run goes on, as that of every group with a share.
    pub adjustable: bool,
}

/// What a run starts with.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Name of the photo.
    pub title: &'a str,
    /// Adapter, backend and driver.
    pub device: &'a str,
    /// The photo, in the proportions of the picture that is painted.
    pub photo: &'a Picture,
    /// The sizes at which the picture is painted, the smallest first; at least one.
    pub scales: Vec<Scale>,
    /// The groups of losses, in the order in which they are listed.
    pub groups: &'a [Group<'a>],
    /// Top classes of the photo, label and probability, most probable first; empty without fc layers.
    pub photo_classes: &'a [(String, f32)],
}

impl<'a> Start<'a> {
    /// A run at the photo's own size, without groups.
    pub fn new(title: &'a str, photo: &'a Picture, iterations: u32) -> Self {
        let (width, height) = (photo.width, photo.height);
        let scale = Scale { width, height, first: 0, end: iterations, work: 1, preparing: 0 };
        Self { title, device: "", photo, scales: vec![scale], groups: &[], photo_classes: &[] }
    }
}

/// The page of one run. All calls return at once; messages are sent from other threads. Dropped without
/// [`LivePage::end`], it shows that the run failed.
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
    /// [`Error::Usage`](crate::Error::Usage) if the address can't be listened on, e.g. because the port is in use; [`Error::Io`](crate::Error::Io) if the system gives no random numbers or threads.
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

    /// Address of the page, with the token that lets its viewer control the run.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A run starts, the first or another; the page forgets an earlier one.
    pub fn begin(&self, start: &Start<'_>) {
        self.encoder.forget();
        self.history.begin(start);
        self.show(start.photo, |frame| self.encoder.photo(frame));
    }

    /// A scale of [`Start::scales`] begins, counted from 0. Pictures have its size from here on.
    pub fn scale(&self, index: usize) {
        self.history.scale(index);
    }

    /// Losses, shares and classes were measured.
    pub fn report(&self, report: &Report) {
        self.history.report(report);
    }

    /// These shares (by group, as fractions of 1; empty if all weights are given) and weights are in effect after
    /// `iteration` iterations.
    pub fn weights(&self, iteration: u32, shares: &[(&str, f32)], weights: &[(&str, f32)]) {
        self.history.weights(iteration, shares, weights);
    }

    /// `iteration` iterations are done, `seconds` after the first began.
    pub fn progress(&self, iteration: u32, seconds: f64) {
        self.history.progress(iteration, seconds);
    }

    /// The newest picture, after `iteration` iterations. It is copied (as 8 bit values), and replaces an earlier
    /// one that is not yet encoded; it is encoded only while there are viewers.
    pub fn picture(&self, iteration: u32, picture: &Picture) {
        self.show(picture, |frame| self.encoder.picture(iteration, frame));
    }

    /// A snapshot for the strip: the picture after `iteration` iterations, the file it was saved as, and what
    /// the network sees in it (label and probability; may be empty). Of many, some are kept, evenly spread.
    pub fn snapshot(&self, iteration: u32, picture: &Picture, path: &str, classes: &[(String, f32)]) {
        let about = message::Snapshot::new(iteration, path, classes);
        self.show(picture, |frame| self.encoder.snapshot(about, frame));
    }

    /// A text for the viewers, such as what was saved.
    pub fn note(&self, text: &str) {
        self.history.note(text);
    }

    /// The run is paused, or goes on.
    pub fn paused(&self, paused: bool) {
        self.history.paused(paused);
    }

    /// True if there are viewers, and the last picture was encoded some time ago: a run that checks this before it reads
    /// a picture back from the device reads no more than can be seen.
    pub fn wants_pictures(&self) -> bool {
        self.history.viewers() > 0 && self.encoder.is_free()
    }

    /// The run is over. Sends all viewers how it ended (`finished`, `settled`, `stopped`, `failed` or a sentence) and
    /// where the picture is saved, waits a second or two at most until they have received it, and shuts down.
    pub fn end(mut self, ending: &str, output: &str) {
        self.close(ending, output);
    }

    fn close(&mut self, ending: &str, output: &str) {
        self.encoder.finish(Instant::now() + CLOSE_TIMEOUT);
        self.history.end(ending, output);
        self.history.wait_for_viewers(Instant::now() + CLOSE_TIMEOUT);
        self.server.stop();
    }

    /// Copies a picture and hands it to `show`.
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
