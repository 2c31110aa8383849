//! A viewer: a WebSocket that receives updates and may send commands.

use super::history::History;
use super::message::{Item, Request};
use super::shared::Shared;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Timeout for sending one message; then the viewer is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum time between batches of updates.
const PACE: Duration = Duration::from_millis(40);
/// Time between heartbeats. Each includes a ping, which browsers answer automatically.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Timeout for receiving from a viewer. A viewer that doesn't read doesn't answer pings.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(25);
/// Timeout for a viewer to confirm the close of its connection.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum number of queued responses for a viewer; further ones are dropped.
const ANSWERS: usize = 16;
/// Maximum number of refused messages from a viewer; it is dropped at the next one.
const REFUSALS: u32 = 16;

/// Serves a viewer until it leaves, is dropped, or the run is over.
pub(super) async fn serve(socket: WebSocket, shared: &Shared) {
    let _presence = shared.history.enter();
    shared.encoder.wake();
    let (sender, receiver) = socket.split();
    let (answer, answers) = mpsc::channel(ANSWERS);
    let receiving = receive(receiver, shared, answer);
    tokio::pin!(receiving);
    tokio::select! {
        () = &mut receiving => {}
        complete = send_updates(sender, &shared.history, answers) => {
            if complete {
                // Only the viewer's reply shows that it has received all messages.
                drop(timeout(CLOSE_TIMEOUT, receiving).await);
            }
        }
    }
}

/// Sends updates to the viewer. Returns true if everything was sent up to the end of the run.
async fn send_updates(
    mut sender: SplitSink<WebSocket, Message>,
    history: &History,
    mut answers: mpsc::Receiver<Item>,
) -> bool {
    let mut send = async |message| matches!(timeout(SEND_TIMEOUT, sender.send(message)).await, Ok(Ok(())));
    let mut updates = history.subscribe();
    let mut clock = 0;
    let mut next_heartbeat = Instant::now() + HEARTBEAT;
    loop {
        // Before the history is read, so that no concurrent update is missed.
        updates.mark_unchanged();
        let (messages, now, is_over) = history.since(clock);
        clock = now;
        for message in messages {
            if !send(message).await {
                return false;
            }
        }
        if is_over {
            return send(Message::Close(None)).await;
        }
        if Instant::now() >= next_heartbeat {
            next_heartbeat = Instant::now() + HEARTBEAT;
            let alive = Message::Text(Item::Alive.json().into());
            if !(send(Message::Ping(Bytes::new())).await && send(alive).await) {
                return false;
            }
        }
        tokio::select! {
            changed = updates.changed() => {
                if changed.is_err() {
                    return false;
                }
                // Updates that follow soon are sent in the same batch.
                tokio::time::sleep(PACE).await;
            }
            answer = answers.recv() => match answer {
                Some(answer) if send(Message::Text(answer.json().into())).await => {}
                _ => return false,
            },
            () = tokio::time::sleep_until(next_heartbeat) => {}
        }
    }
}

/// Handles the viewer's messages until it leaves, is silent for too long, or had too many messages refused.
async fn receive(mut receiver: SplitStream<WebSocket>, shared: &Shared, answer: mpsc::Sender<Item>) {
    let mut may_control = false;
    let mut refusals = 0;
    while let Ok(Some(Ok(message))) = timeout(RECEIVE_TIMEOUT, receiver.next()).await {
        let handled = match &message {
            Message::Text(text) => handle(text, shared, &mut may_control),
            Message::Binary(_) => Err("not understood: commands must be text".into()),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let answered = match handled {
            Ok(None) => continue,
            Ok(Some(item)) => item,
            Err(reason) => {
                refusals += 1;
                if refusals > REFUSALS {
                    return;
                }
                Item::Refused { reason }
            }
        };
        // The queue is full only if the viewer doesn't read.
        drop(answer.try_send(answered));
    }
}

/// Handles a text message; returns the response, if any.
fn handle(text: &str, shared: &Shared, may_control: &mut bool) -> Result<Option<Item>, String> {
    let request = Request::parse(text)?;
    match &request {
        Request::Hello { token } => {
            *may_control = shared.access.is_token(token);
            return Ok(Some(Item::Access { control: *may_control }));
        }
        Request::Alive => return Ok(None),
        _ => {}
    }
    if !*may_control {
        return Err(
            "view only: the token is missing or wrong. Open the address printed by the program".into()
        );
    }
    if let Some(command) = request.command(&shared.history.adjustable())? {
        if let super::Command::Shares(shares) = &command {
            shared.history.requested(shares);
        }
        (shared.commands)(command);
    }
    Ok(None)
}
