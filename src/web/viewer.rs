//! One viewer: a WebSocket that gets what is new, and may send commands.

use super::history::History;
use super::message::{Item, Request};
use super::server::Shared;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Longest that a viewer may take for one message; then it is dropped.
const PATIENCE: Duration = Duration::from_secs(20);
/// Shortest time from one round of news to the next.
const PACE: Duration = Duration::from_millis(40);
/// A sign of life goes out this often, and a ping, which browsers answer by themselves.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Longest silence of a viewer: one that doesn't read doesn't answer pings.
const SILENCE: Duration = Duration::from_secs(25);
/// Longest wait for a viewer to answer the closing of its connection.
const FAREWELL: Duration = Duration::from_millis(500);
/// Answers that may wait for a viewer; one that asks for more without reading is not answered.
const ANSWERS: usize = 16;
/// Refused messages until a viewer is dropped.
const REFUSALS: u32 = 16;

/// Serves a viewer until one of the two sides has enough.
pub(super) async fn serve(socket: WebSocket, shared: &Shared) {
    let _presence = shared.history.enter();
    shared.encoder.wake();
    let (sender, receiver) = socket.split();
    let (answer, answers) = mpsc::channel(ANSWERS);
    let listening = listen(receiver, shared, answer);
    tokio::pin!(listening);
    tokio::select! {
        () = &mut listening => {}
        said_all = tell(sender, &shared.history, answers) => {
            if said_all {
                // Only what the viewer has answered is sure to have reached it.
                drop(timeout(FAREWELL, listening).await);
            }
        }
    }
}

/// Tells the viewer what is new; true if all was told, up to the end of the run.
async fn tell(
    mut sender: SplitSink<WebSocket, Message>,
    history: &History,
    mut answers: mpsc::Receiver<Item>,
) -> bool {
    let mut send = async |message| matches!(timeout(PATIENCE, sender.send(message)).await, Ok(Ok(())));
    let mut news = history.subscribe();
    let mut clock = 0;
    let mut next_sign = Instant::now() + SIGN_OF_LIFE;
    loop {
        // Before the store is read, so that nothing told meanwhile is missed.
        news.mark_unchanged();
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
        if Instant::now() >= next_sign {
            next_sign = Instant::now() + SIGN_OF_LIFE;
            let alive = Message::Text(Item::Alive.json().into());
            if !(send(Message::Ping(Bytes::new())).await && send(alive).await) {
                return false;
            }
        }
        tokio::select! {
            changed = news.changed() => {
                if changed.is_err() {
                    return false;
                }
                // What comes in the next moment goes along.
                tokio::time::sleep(PACE).await;
            }
            answer = answers.recv() => match answer {
                Some(answer) if send(Message::Text(answer.json().into())).await => {}
                _ => return false,
            },
            () = tokio::time::sleep_until(next_sign) => {}
        }
    }
}

/// Follows the viewer's messages until it leaves, is silent too long, or sends too much nonsense.
async fn listen(mut receiver: SplitStream<WebSocket>, shared: &Shared, answer: mpsc::Sender<Item>) {
    let mut may_steer = false;
    let mut refusals = 0;
    while let Ok(Some(Ok(message))) = timeout(SILENCE, receiver.next()).await {
        let followed = match &message {
            Message::Text(text) => follow(text, shared, &mut may_steer),
            Message::Binary(_) => Err("not understood: commands are texts".into()),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let answered = match followed {
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
        // Full only for a viewer that doesn't read its answers.
        drop(answer.try_send(answered));
    }
}

/// Follows one text; the answer, if there is one to give.
fn follow(text: &str, shared: &Shared, may_steer: &mut bool) -> Result<Option<Item>, String> {
    let request = Request::parse(text)?;
    if let Request::Hello { token } = &request {
        *may_steer = shared.access.is_token(token);
        return Ok(Some(Item::Access { steer: *may_steer }));
    }
    if !*may_steer {
        return Err(
            "view only: the token is missing or wrong. Open the address that the program printed".into()
        );
    }
    if let Some(command) = request.command(&shared.history.steerable())? {
        if let super::Command::Shares(shares) = command {
            shared.history.asked(shares);
        }
        (shared.commands)(command);
    }
    Ok(None)
}
