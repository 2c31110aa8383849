//! What the tasks of the server share.

use super::Command;
use super::access::Access;
use super::encoder::Encoder;
use super::history::History;
use std::sync::Arc;

/// What the tasks of the server share.
pub(super) struct Shared {
    pub access: Access,
    pub history: Arc<History>,
    pub encoder: Arc<Encoder>,
    pub commands: Box<dyn Fn(Command) + Send + Sync>,
}
