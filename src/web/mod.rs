//! The live page: a run shown in browsers while it paints, and steered from them.
//!
//! [`LivePage::open`] serves one page, with all of its assets, from threads of its own. The run tells it what
//! happens ([`LivePage::report`], [`LivePage::picture`], ...) and never waits for it: a call stores what is new, or
//! replaces what is older, and returns. Viewers fetch from that store at the pace they can keep; each gets all it
//! needs on connection, however late.
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
//!     println!("Watch and steer: {}", page.url());
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
//! # Who may do what
//! - The server listens on 127.0.0.1 unless told otherwise, and answers only requests that name it by an address it
//!   listens on or as `localhost`: a web site can't reach it by pointing a name of its own at 127.0.0.1.
//! - A request from a page of another origin is refused, and so is a WebSocket handshake without an origin.
//! - Whoever reaches the server may watch. What changes the run needs the token in the fragment of
//!   [`LivePage::url`], which browsers never send to a server by themselves; it is compared in constant time.
//! - The page loads nothing from elsewhere, and its Content-Security-Policy forbids it to.
//! - Requests, messages, connections and waiting times are limited (see `server.rs` and `viewer.rs`), and so is what
//!   is kept of a long run (see `history.rs`).

mod access;
mod encoder;
mod history;
mod message;
mod server;
mod viewer;

use crate::error::Result;
use crate::image_io::Picture;
use access::Access;
use encoder::{Encoder, Frame};
use history::History;
use message::Seen;
pub use message::{FactorReport, Report, Shares};
use server::{Server, Shared};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that [`LivePage::end`] waits for the last picture to be encoded, and again for the last words to go out.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the page is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Address to listen on. Anything but a loopback address lets others in the network watch.
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

/// What a viewer with the token asks of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Command {
    /// Hold after the present iteration; answered with [`LivePage::paused`].
    Pause,
    /// Go on; answered with [`LivePage::paused`].
    Resume,
    /// Save the present picture now; answered with [`LivePage::note`].
    Save,
    /// End after the present iteration, with the picture saved; answered with [`LivePage::end`].
    Stop,
    /// Give the factors these shares of the gradient from now on; answered with [`LivePage::weights`]. The
    /// shares are finite, not negative, not all zero, and zero for factors that can't be steered.
    Shares(Shares),
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
    /// Width and height of the picture that is painted, in pixels.
    pub size: [usize; 2],
    /// Iterations in all.
    pub iterations: u32,
    /// Shares that the run begins with; `None` if it was given raw weights.
    pub shares: Option<Shares>,
    /// Factors whose shares can be changed: any of `spatial`, `abstract`, `style`.
    pub steerable: &'a [&'a str],
    /// Top classes of the photo, label and probability, most probable first; empty without fc layers.
    pub photo_classes: &'a [(String, f32)],
}

impl<'a> Start<'a> {
    /// A run at the photo's own size, with raw weights and nothing to steer.
    pub fn new(title: &'a str, photo: &'a Picture, iterations: u32) -> Self {
        let size = [photo.width, photo.height];
        Self { title, device: "", photo, size, iterations, shares: None, steerable: &[], photo_classes: &[] }
    }
}

/// The page of one run. All calls return at once; what they tell is sent from other threads. Dropped without
/// [`LivePage::end`], it tells its viewers that the run broke off.
#[derive(Debug)]
pub struct LivePage {
    history: Arc<History>,
    encoder: Arc<Encoder>,
    server: Server,
    url: String,
}

impl LivePage {
    /// Starts the server. `commands` is called from one of its threads and must not block: hand the command on.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) if the address can't be listened on, for one because the port is in
    /// use; [`Error::Io`](crate::Error::Io) if the system gives no random numbers or threads.
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

    /// Address of the page, with the token that lets its viewer steer.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A run starts, the first or another: what the page showed of an earlier one is gone.
    pub fn begin(&self, start: &Start<'_>) {
        self.encoder.forget();
        self.history.begin(start);
        self.show(start.photo, |frame| self.encoder.photo(frame));
    }

    /// Losses, shares and classes were measured.
    pub fn report(&self, report: &Report) {
        self.history.report(report);
    }

    /// These shares (by factor; empty if the run was given raw weights) and raw weights are in force after
    /// `iteration` iterations.
    pub fn weights(&self, iteration: u32, shares: &[(&str, f32)], weights: &[(&str, f32)]) {
        self.history.weights(iteration, shares, weights);
    }

    /// `iteration` iterations are done, `seconds` after the first began.
    pub fn progress(&self, iteration: u32, seconds: f64) {
        self.history.progress(iteration, seconds);
    }

    /// The newest picture, after `iteration` iterations. It is copied (as 8 bit values), and replaces an earlier
    /// one that is not yet encoded; it is encoded only while somebody watches.
    pub fn picture(&self, iteration: u32, picture: &Picture) {
        self.show(picture, |frame| self.encoder.picture(iteration, frame));
    }

    /// A snapshot for the strip: the picture after `iteration` iterations, the file it was saved as, and what
    /// the network sees in it (label and probability; may be empty). Of many, some are kept, evenly spread.
    pub fn snapshot(&self, iteration: u32, picture: &Picture, path: &str, classes: &[(String, f32)]) {
        let about = message::Snapshot::new(iteration, path, classes);
        self.show(picture, |frame| self.encoder.snapshot(about, frame));
    }

    /// A word to the viewers: what was saved, what to look out for.
    pub fn note(&self, text: &str) {
        self.history.note(text);
    }

    /// The run holds, or goes on.
    pub fn paused(&self, paused: bool) {
        self.history.paused(paused);
    }

    /// True if somebody watches and is ready for another picture: the earlier one is encoded, and not just now.
    /// A run that asks before it fetches a picture from the device fetches no more than can be seen.
    pub fn wants_pictures(&self) -> bool {
        self.history.viewers() > 0 && self.encoder.is_free()
    }

    /// The run is over: tells all viewers how (`finished`, `stopped`, a sentence) and where the picture lies, waits
    /// a second or two at most until they have heard, and shuts down.
    pub fn end(mut self, ending: &str, output: &str) {
        self.close(ending, output);
    }

    fn close(&mut self, ending: &str, output: &str) {
        self.encoder.finish(Instant::now() + LAST_WORDS);
        self.history.end(ending, output);
        self.history.wait_for_viewers(Instant::now() + LAST_WORDS);
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
        if !self.history.seen(Seen::End) {
            self.close("failed", "");
        }
    }
}
