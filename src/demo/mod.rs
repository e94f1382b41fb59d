//! A simulated service: the same story every time, for `--demo`, for pictures and for tests.
//!
//! It answers a [`Handle`] as the real service does, so the screen has no word of it. It opens no socket and reads
//! no file; its clients, containers and bytes are made up, and its time is what it is told.

mod cast;
mod containers;
mod metrics;
mod published;
mod requests;
mod rows;
mod story;
mod updates;
mod why;

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::model::update::Update;
use crate::service::{Handle, Incoming, ServiceCall};

pub use story::{BEGINNING_MS, PRESENT_MS, STEP_MS, Story};

/// Starts the simulation on a thread of its own, which ends when the last handle is dropped.
pub fn start() -> std::io::Result<Handle> {
    let (handle, incoming) = Handle::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("demo".to_owned()).spawn(move || runtime.block_on(serve(incoming)))?;
    Ok(handle)
}

/// A subscriber and how many updates it was sent.
struct Client {
    updates: mpsc::Sender<Update>,
    seq: u64,
}

/// Plays the story from its present on, and answers until no client is left.
pub async fn serve(mut incoming: Incoming) {
    let started = Instant::now();
    let mut story = Story::new();
    story.advance_to(PRESENT_MS);
    // What happened before there was a client is told to each as its past.
    let _ = story.next_update();
    let mut clients: Vec<Client> = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(STEP_MS));
    loop {
        tokio::select! {
            call = incoming.recv() => match call {
                None => return,
                Some(ServiceCall::Request { call, reply }) => {
                    // A client that no longer waits does not need the answer.
                    let _ = reply.send(story.answer(&call));
                    send(&mut story, &mut clients).await;
                }
                Some(ServiceCall::Subscribe { updates, begun, .. }) => {
                    let _ = begun.send(Ok(()));
                    send(&mut story, &mut clients).await;
                    clients.push(subscribe(&story, updates).await);
                }
            },
            _ = ticks.tick() => {
                let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                story.advance_to(PRESENT_MS + elapsed);
                send(&mut story, &mut clients).await;
            }
        }
    }
}

/// Tells a new client the minute before in fast motion, so that its graphs have something to show. Once somebody
/// has changed the story, it begins with how things stand.
async fn subscribe(story: &Story, updates: mpsc::Sender<Update>) -> Client {
    let mut client = Client { updates, seq: 0 };
    if story.is_changed() {
        client.send(story.full_update()).await;
        return client;
    }
    let mut past = Story::new();
    past.advance_to(story.now_ms() - (PRESENT_MS - BEGINNING_MS));
    client.send(past.full_update()).await;
    while past.now_ms() < story.now_ms() {
        past.advance_to(past.now_ms() + STEP_MS);
        client.send(past.next_update()).await;
    }
    client
}

async fn send(story: &mut Story, clients: &mut Vec<Client>) {
    let update = story.next_update();
    for client in clients.iter_mut() {
        client.send(update.clone()).await;
    }
    clients.retain(|client| !client.updates.is_closed());
}

impl Client {
    async fn send(&mut self, mut update: Update) {
        self.seq += 1;
        update.seq = self.seq;
        // A closed receiver is taken off the list by the caller.
        let _ = self.updates.send(update).await;
    }
}
