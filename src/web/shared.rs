//! State shared by the server's tasks.

use super::Command;
use super::access::Access;
use super::encoder::Encoder;
use super::history::History;
use std::sync::Arc;

/// State shared by the server's tasks.
pub(super) struct Shared {
    pub access: Access,
    pub history: Arc<History>,
    pub encoder: Arc<Encoder>,
    pub commands: Box<dyn Fn(Command) + Send + Sync>,
}
