//! The messages between the server and the page.
//!
//! Texts are JSON objects with a `type`; [`Item`] and [`Request`] list them. Pictures are binary: [`header`], then a
//! JPEG file.

use super::{Command, Start};
use serde::{Deserialize, Serialize};

/// Length of a picture's header in bytes.
pub(super) const HEADER: usize = 12;

/// One scale of a coarse-to-fine run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scale {
    /// Width of the picture in pixels.
    pub width: usize,
    /// Height of the picture in pixels.
    pub height: usize,
    /// Iterations of the whole run completed when this scale begins.
    pub first: u32,
    /// Iterations of the whole run completed when this scale ends.
    pub end: u32,
    /// Cost of one iteration in any unit, such as pixels computed; used to estimate the remaining time.
    pub work: u64,
    /// Cost before the first iteration, in the same unit.
    pub preparing: u64,
}

/// State of a run after some iterations. Numbers that are NaN or infinite are shown as missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Number of completed iterations; 0 is the start picture.
    pub iteration: u32,
    /// Seconds since the first iteration began.
    pub seconds: f64,
    /// Sum of all weighted losses.
    pub total: f64,
    /// The groups of losses of the run.
    pub groups: Vec<GroupReport>,
    /// Top classes of the picture, label and probability, most probable first; empty without fc layers.
    pub classes: Vec<(String, f32)>,
    /// Distance between the class probabilities of photo and picture.
    pub class_distance: Option<f32>,
    /// Mean absolute change of a colour value (0 to 1) in one iteration.
    pub change: Option<f32>,
}

/// One group of losses in a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupReport {
    /// One of the names in [`Start::groups`]; the page ignores others.
    pub name: String,
    /// Weighted loss.
    pub loss: f64,
    /// Share of the sum of all weighted losses, 0 to 1.
    pub loss_share: Option<f32>,
    /// Share of the sum of the groups' mean absolute gradients, 0 to 1.
    pub gradient_share: Option<f32>,
}

/// A text message to the page.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Item {
    /// A run starts; all earlier messages are obsolete.
    Start {
        title: String,
        device: String,
        scales: Vec<Scale>,
        groups: Vec<GroupStart>,
        photo_classes: Vec<(String, f32)>,
    },
    /// A scale begins, counted from 0.
    Scale { index: usize },
    /// A viewer requested these shares.
    Requested { shares: Vec<(String, f32)> },
    /// Shares and raw weights in effect.
    Weights { iteration: u32, shares: Vec<(String, f32)>, weights: Vec<(String, f32)> },
    /// Number of completed iterations.
    Progress { iteration: u32, seconds: f64 },
    /// The run is paused or continues.
    Paused { paused: bool },
    /// The snapshots that are kept, by id; the page drops the others.
    Strip { kept: Vec<u32> },
    /// Describes the snapshot whose picture follows.
    Snapshot(Snapshot),
    /// A text for the viewer.
    Note { text: String },
    /// The run is over.
    End { ending: String, output: String },
    /// Response to a hello: whether its token permits control of the run.
    Access { control: bool },
    /// A message was refused, with the reason.
    Refused { reason: String },
    /// A heartbeat.
    Alive,
}

/// A group of losses in [`Item::Start`].
#[derive(Debug, Clone, Serialize)]
pub(super) struct GroupStart {
    name: String,
    about: String,
    share: Option<f32>,
    adjustable: bool,
}

/// The kinds of [`Item`] of which only the latest is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Latest {
    /// [`Item::Start`].
    Start,
    /// [`Item::Scale`].
    Scale,
    /// [`Item::Requested`].
    Requested,
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
    /// Creates the item for the start of a run.
    pub fn start(start: &Start<'_>) -> Self {
        let groups = start.groups.iter().map(|group| GroupStart {
            name: group.name.to_owned(),
            about: group.about.to_owned(),
            share: group.share,
            adjustable: group.adjustable,
        });
        Self::Start {
            title: start.title.to_owned(),
            device: start.device.to_owned(),
            scales: start.scales.clone(),
            groups: groups.collect(),
            photo_classes: start.photo_classes.to_vec(),
        }
    }

    /// Returns the message text.
    pub fn json(&self) -> String {
        json(self)
    }
}

/// Serialises a value as JSON. This can't fail: the types here have only string keys and plain values.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain values")
}

/// The description of a snapshot, without its picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Snapshot {
    /// Assigned by the history.
    pub id: u32,
    pub iteration: u32,
    path: String,
    classes: Vec<(String, f32)>,
}

impl Snapshot {
    /// Creates a description without an id.
    pub fn new(iteration: u32, path: &str, classes: &[(String, f32)]) -> Self {
        Self { id: 0, iteration, path: path.to_owned(), classes: classes.to_vec() }
    }
}

/// The content of a binary message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The photo.
    Photo = 0,
    /// The newest picture.
    Picture = 1,
    /// A snapshot.
    Snapshot = 2,
}

/// Returns the header of a picture: kind (one byte, three of padding), iteration, id of a snapshot (32 bit,
/// little-endian).
pub(super) fn header(kind: Kind, iteration: u32, id: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[0] = kind as u8;
    bytes[4..8].copy_from_slice(&iteration.to_le_bytes());
    bytes[8..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// A text message from the page.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Request {
    /// A heartbeat, so that a viewer on a slow connection with much data to receive counts as present.
    Alive,
    /// The first message. With the right token, the viewer may control the run.
    Hello {
        token: String,
    },
    Pause,
    Resume,
    Save,
    Stop,
    Shares {
        shares: Vec<(String, f32)>,
    },
}

impl Request {
    /// Parses a message.
    ///
    /// # Errors
    /// A sentence with the problem.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("not understood: {error}"))
    }

    /// Returns the command, for a run with these adjustable groups; `None` for a hello or heartbeat.
    ///
    /// # Errors
    /// A sentence with the reason for refusing it.
    pub fn command(self, adjustable: &[String]) -> Result<Option<Command>, String> {
        Ok(Some(match self {
            Self::Hello { .. } | Self::Alive => return Ok(None),
            Self::Pause => Command::Pause,
            Self::Resume => Command::Resume,
            Self::Save => Command::Save,
            Self::Stop => Command::Stop,
            Self::Shares { shares } => {
                check_shares(&shares, adjustable)?;
                Command::Shares(shares)
            }
        }))
    }
}

/// Checks that there is one valid share for each adjustable group, and none for others.
fn check_shares(shares: &[(String, f32)], adjustable: &[String]) -> Result<(), String> {
    for (at, (name, share)) in shares.iter().enumerate() {
        if !adjustable.contains(name) {
            return Err(format!("the share of `{name}` can't be changed in this run"));
        }
        if shares[..at].iter().any(|(other, _)| other == name) {
            return Err(format!("`{name}` has two shares"));
        }
        if !share.is_finite() || *share < 0.0 {
            return Err(format!("the share of `{name}` must be a number of at least 0"));
        }
    }
    if let Some(name) = adjustable.iter().find(|name| !shares.iter().any(|(other, _)| other == *name)) {
        return Err(format!("the share of `{name}` is missing"));
    }
    let sum: f32 = shares.iter().map(|(_, share)| share).sum();
    if sum.is_finite() && sum > 0.0 {
        return Ok(());
    }
    Err("the shares must not all be zero, and their sum must be finite".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_shares_are_refused() {
        let all = ["layout", "mood", "ink"].map(str::to_owned);
        let command = |text: &str, adjustable: &[String]| Request::parse(text)?.command(adjustable);
        let good = r#"{"type":"shares","shares":[["ink",3],["layout",0.2],["mood",0]]}"#;
        let shares = vec![("ink".to_owned(), 3.0), ("layout".to_owned(), 0.2), ("mood".to_owned(), 0.0)];
        assert_eq!(command(good, &all), Ok(Some(Command::Shares(shares))));
        for (shares, word) in [
            (r#"[["layout",0],["mood",0],["ink",0]]"#, "zero"),
            (r#"[["layout",-1],["mood",0],["ink",2]]"#, "at least 0"),
            (r#"[["layout",1e39],["mood",0],["ink",2]]"#, "at least 0"),
            (r#"[["layout",3e38],["mood",3e38],["ink",2]]"#, "finite"),
            (r#"[["layout",null],["mood",0],["ink",2]]"#, "not understood"),
            (r#"[["layout",NaN],["mood",0],["ink",2]]"#, "not understood"),
            (r#"[["layout","1"],["mood",0],["ink",2]]"#, "not understood"),
            (r#"[["layout",1,2],["mood",0],["ink",2]]"#, "not understood"),
            (r#"[["layout",1],["mood",0]]"#, "`ink` is missing"),
            (r#"[["layout",1],["mood",0],["layout",1]]"#, "`layout` has two"),
            (r#"[["layout",1],["mood",0],["ink",1],["ink",0]]"#, "`ink` has two"),
            (r#"[["layout",1],["mood",0],["ink",1],["Ink",1]]"#, "`Ink`"),
            (r#"[["layout",1],["mood",0],["ink",1],["smooth",0]]"#, "`smooth`"),
            ("[]", "is missing"),
            (r#"{"layout":1,"mood":0,"ink":1}"#, "not understood"),
            (r#"[],"more":1"#, "more"),
        ] {
            let text = format!(r#"{{"type":"shares","shares":{shares}}}"#);
            let refused = command(&text, &all).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
        for (text, word) in [(r#"{"type":"dance"}"#, "dance"), ("[", "not understood")] {
            let refused = command(text, &all).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
        // A group of the run that isn't adjustable; and after the end of the run.
        assert!(command(good, &all[..2]).unwrap_err().contains("`ink`"));
        assert!(command(good, &[]).is_err());
        assert!(command(r#"{"type":"shares","shares":[]}"#, &[]).is_err());
    }

    #[test]
    fn non_finite_numbers_become_null() {
        let group = GroupReport {
            name: "style".into(),
            loss: f64::NAN,
            loss_share: Some(0.5),
            gradient_share: Some(f32::NAN),
        };
        assert_eq!(json(&group), r#"{"name":"style","loss":null,"lossShare":0.5,"gradientShare":null}"#);
    }
}
