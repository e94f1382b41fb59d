//! An engine that tells the demo's story and stands still in it, so that its tables are the same every time.

use portolan::demo::{PRESENT_MS, Story};
use portolan::model::update::{Interest, Update};
use portolan::service::{Handle, Incoming, ServiceCall};

use crate::player::through_json;

/// An engine at the story's present.
pub(crate) fn engine() -> Handle {
    let mut story = Story::new();
    story.advance_to(PRESENT_MS);
    tells(story)
}

/// An engine that stands where the story stands.
pub(crate) fn tells(story: Story) -> Handle {
    let (handle, incoming) = Handle::channel();
    tokio::spawn(serve(story, incoming));
    handle
}

async fn serve(mut story: Story, mut incoming: Incoming) {
    let mut clients = Vec::new();
    while let Some(call) = incoming.recv().await {
        match call {
            ServiceCall::Request { call, reply } => {
                let _ = reply.send(story.answer(&through_json(&*call)));
            }
            ServiceCall::Subscribe { interest, updates, begun } => {
                let _ = begun.send(Ok(()));
                let update = through_json(&of_interest(story.full_update(), &interest));
                updates.send(update).await.expect("it has just asked");
                clients.push(updates);
            }
        }
    }
}

/// What a real engine would send.
fn of_interest(mut update: Update, interest: &Interest) -> Update {
    update.mappings.retain(|row| interest.mappings && (interest.published || !row.is_docker()));
    update.connections.retain(|row| interest.connections && (interest.published || !row.is_docker()));
    if !interest.containers {
        update.containers.clear();
    }
    update
}
