//! What goes over the wire.
//!
//! Texts are JSON objects with a `type`; [`Item`] and [`Request`] list them. Pictures are binary: [`header`], then a
//! JPEG file.

use super::{Command, Start};
use serde::{Deserialize, Serialize};

/// Length of a picture's header.
pub(super) const HEADER: usize = 12;

/// The factors that have a share.
pub(super) const FACTORS: [&str; 3] = ["spatial", "abstract", "style"];

/// Shares of the three factors in the gradient, in any unit: only their proportion counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// The photo's layout.
    pub spatial: f32,
    /// What the network thinks it sees; `abstract` on the wire.
    #[serde(rename = "abstract")]
    pub abstracted: f32,
    /// Textures and colours.
    pub style: f32,
}

impl Shares {
    /// Names and shares, in the order of [`FACTORS`].
    fn named(self) -> [(&'static str, f32); 3] {
        let [spatial, abstracted, style] = FACTORS;
        [(spatial, self.spatial), (abstracted, self.abstracted), (style, self.style)]
    }

    /// What is wrong with these shares, if anything, for a run with these steerable factors.
    fn fault(self, steerable: &[String]) -> Option<String> {
        let values = self.named();
        if values.iter().any(|(_, share)| !share.is_finite() || *share < 0.0) {
            return Some("a share must be a number from 0 up".into());
        }
        let sum: f32 = values.iter().map(|(_, share)| share).sum();
        if !(sum.is_finite() && sum > 0.0) {
            return Some("the shares must not all be zero, and their sum must be finite".into());
        }
        let fixed =
            |(name, share): &(&str, f32)| *share > 0.0 && !steerable.iter().any(|other| other == name);
        let (name, _) = values.iter().find(|value| fixed(value))?;
        Some(format!("the {name} factor can't be steered in this run"))
    }
}

/// State of a run after some iterations. Numbers that are NaN or infinite are shown as missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Iterations done: 0 is the start picture.
    pub iteration: u32,
    /// Seconds since the first iteration began.
    pub seconds: f64,
    /// Sum of all weighted losses.
    pub total: f64,
    /// Each factor that is part of the run.
    pub factors: Vec<FactorReport>,
    /// Top classes of the picture, label and probability, most probable first; empty without fc layers.
    pub classes: Vec<(String, f32)>,
    /// Distance between the class vectors of photo and picture.
    pub class_distance: Option<f32>,
    /// Mean absolute change of a colour value (0 to 1) in one iteration.
    pub change: Option<f32>,
}

/// One factor in a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FactorReport {
    /// `spatial`, `abstract`, `style` or `smooth`.
    pub name: String,
    /// Its weighted loss.
    pub loss: f64,
    /// Its share in the sum of all weighted losses, 0 to 1.
    pub loss_share: Option<f32>,
    /// Its share in the sum of the factors' mean absolute gradients, 0 to 1.
    pub gradient_share: Option<f32>,
}

/// A text to the page.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Item {
    /// A run started: forget what came before.
    Start {
        title: String,
        device: String,
        width: usize,
        height: usize,
        iterations: u32,
        shares: Option<Shares>,
        steerable: Vec<String>,
        photo_classes: Vec<(String, f32)>,
    },
    /// Somebody asked for these shares.
    Asked { shares: Shares },
    /// Shares and raw weights in force.
    Weights { iteration: u32, shares: Vec<(String, f32)>, weights: Vec<(String, f32)> },
    /// Iterations done.
    Progress { iteration: u32, seconds: f64 },
    /// The run holds, or goes on.
    Paused { paused: bool },
    /// The snapshots that are kept, by id; the page drops the others.
    Strip { kept: Vec<u32> },
    /// About the snapshot whose picture follows.
    Snapshot(Snapshot),
    /// A word to the viewer.
    Note { text: String },
    /// The run is over.
    End { ending: String, output: String },
    /// The answer to a hello: whether its token lets the viewer steer.
    Access { steer: bool },
    /// A message was not followed, and why.
    Refused { reason: String },
    /// Nothing is new, but the server is there.
    Alive,
}

/// The kinds of [`Item`] of which only the latest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// [`Item::Start`].
    Start,
    /// [`Item::Asked`].
    Asked,
    /// [`Item::Progress`].
    Progress,
    /// [`Item::Paused`].
    Paused,
    /// [`Item::Strip`].
    Strip,
    /// [`Item::End`].
    End,
}

impl Item {
    /// The beginning of a run.
    pub fn start(start: &Start<'_>) -> Self {
        Self::Start {
            title: start.title.to_owned(),
            device: start.device.to_owned(),
            width: start.size[0],
            height: start.size[1],
            iterations: start.iterations,
            shares: start.shares,
            steerable: start.steerable.iter().map(|name| (*name).to_owned()).collect(),
            photo_classes: start.photo_classes.to_vec(),
        }
    }

    /// As it goes out.
    pub fn json(&self) -> String {
        json(self)
    }
}

/// A value as JSON. The types here have string keys and plain values only, which can't fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain values")
}

/// What is told of a snapshot beside its picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Snapshot {
    /// Given by the history.
    pub id: u32,
    pub iteration: u32,
    path: String,
    classes: Vec<(String, f32)>,
}

impl Snapshot {
    /// One without an id yet.
    pub fn new(iteration: u32, path: &str, classes: &[(String, f32)]) -> Self {
        Self { id: 0, iteration, path: path.to_owned(), classes: classes.to_vec() }
    }
}

/// What a binary message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The photo.
    Photo = 0,
    /// The newest picture.
    Picture = 1,
    /// A snapshot.
    Snapshot = 2,
}

/// Header of a picture: kind (one byte, three of padding), iteration, id of a snapshot (32 bit, little endian).
pub(super) fn header(kind: Kind, iteration: u32, id: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[0] = kind as u8;
    bytes[4..8].copy_from_slice(&iteration.to_le_bytes());
    bytes[8..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// A text from the page.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Request {
    /// The first word: with the token, this viewer may steer.
    Hello {
        token: String,
    },
    Pause,
    Resume,
    Save,
    Stop,
    Shares(Shares),
}

impl Request {
    /// Reads a text.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("not understood: {error}"))
    }

    /// The command in it; `None` for a hello.
    ///
    /// # Errors
    /// A sentence that says why it can't be followed.
    pub fn command(self, steerable: &[String]) -> Result<Option<Command>, String> {
        Ok(Some(match self {
            Self::Hello { .. } => return Ok(None),
            Self::Pause => Command::Pause,
            Self::Resume => Command::Resume,
            Self::Save => Command::Save,
            Self::Stop => Command::Stop,
            Self::Shares(shares) => match shares.fault(steerable) {
                Some(fault) => return Err(fault),
                None => Command::Shares(shares),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        let all = FACTORS.map(str::to_owned);
        let command = |text: &str, steerable: &[String]| Request::parse(text)?.command(steerable);
        let good = r#"{"type":"shares","spatial":0.2,"abstract":0,"style":3}"#;
        let shares = Shares { spatial: 0.2, abstracted: 0.0, style: 3.0 };
        assert_eq!(command(good, &all), Ok(Some(Command::Shares(shares))));
        assert_eq!(command(good, &[all[0].clone(), all[2].clone()]), Ok(Some(Command::Shares(shares))));
        for (text, word) in [
            (r#"{"type":"shares","spatial":0,"abstract":0,"style":0}"#, "zero"),
            (r#"{"type":"shares","spatial":-1,"abstract":0,"style":2}"#, "from 0"),
            (r#"{"type":"shares","spatial":1e39,"abstract":0,"style":2}"#, "from 0"),
            (r#"{"type":"shares","spatial":3e38,"abstract":3e38,"style":2}"#, "finite"),
            (r#"{"type":"shares","spatial":null,"abstract":0,"style":2}"#, "not understood"),
            (r#"{"type":"shares","spatial":1,"abstract":0}"#, "style"),
            (r#"{"type":"shares","spatial":1,"abstract":0,"style":1,"more":1}"#, "more"),
            (r#"{"type":"dance"}"#, "dance"),
            ("[", "not understood"),
        ] {
            let refused = command(text, &all).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
        let refused = command(good, &all[..2]).unwrap_err();
        assert!(refused.contains("style factor"), "{refused}");
    }

    #[test]
    fn missing_numbers_are_null() {
        let factor = FactorReport {
            name: "style".into(),
            loss: f64::NAN,
            loss_share: Some(0.5),
            gradient_share: Some(f32::NAN),
        };
        assert_eq!(json(&factor), r#"{"name":"style","loss":null,"lossShare":0.5,"gradientShare":null}"#);
    }
}
