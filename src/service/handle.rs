//! What a client holds: requests go in over a bounded channel, updates come out of a leased subscription.
//!
//! Nothing but the types of `model` crosses here, so a client behind a socket behaves the same, and a test
//! or `--demo` can stand in for the service by answering [`Incoming`].

use tokio::sync::{mpsc, oneshot};

use crate::model::request::{Call, Reply, Request, RequestError};
use crate::model::update::{Interest, Update};

/// Calls that may wait for the service; a client that finds it full waits in turn.
const PENDING_CALLS: usize = 64;
/// Updates that may wait for a client; while it is full, changes gather in the service instead.
const PENDING_UPDATES: usize = 4;

/// A client's end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    calls: mpsc::Sender<ServiceCall>,
}

/// The service's end.
pub type Incoming = mpsc::Receiver<ServiceCall>;

/// What arrives at the service.
#[derive(Debug)]
pub enum ServiceCall {
    /// Do this and answer. A dropped reply means that the client no longer waits.
    Request {
        /// What is asked.
        call: Box<Call>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Reply, RequestError>>,
    },
    /// Send updates until the receiver is dropped.
    Subscribe {
        /// Of what.
        interest: Interest,
        /// Where they go. The first one is full.
        updates: mpsc::Sender<Update>,
        /// Where it is said that they will come, or why not.
        begun: oneshot::Sender<Result<(), RequestError>>,
    },
}

#[cfg(test)]
impl ServiceCall {
    /// Begins a subscription, as the service does, or refuses it. Gives where its updates go.
    pub(crate) fn begin(self, result: Result<(), RequestError>) -> mpsc::Sender<Update> {
        let Self::Subscribe { updates, begun, .. } = self else { panic!("not a subscription: {self:?}") };
        begun.send(result).expect("it is waited for");
        updates
    }
}

/// Updates of one client; dropping it ends the lease.
#[derive(Debug)]
pub struct Subscription {
    updates: mpsc::Receiver<Update>,
    on_demand: Option<OnDemand>,
}

/// Of a client that may stop taking updates for long: the room for one, which the service has while it is waited for.
#[derive(Debug)]
struct OnDemand {
    room: mpsc::WeakSender<Update>,
    taken: Option<mpsc::OwnedPermit<Update>>,
}

impl Handle {
    /// A connected pair.
    pub fn channel() -> (Self, Incoming) {
        let (calls, incoming) = mpsc::channel(PENDING_CALLS);
        (Self { calls }, incoming)
    }

    /// Asks, and waits for the answer.
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        self.call(Call { expected: None, request }).await
    }

    /// Asks, perhaps provided that the desired state stands where it did, and waits for the answer.
    pub async fn call(&self, call: Call) -> Result<Reply, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(ServiceCall::Request { call: Box::new(call), reply }).await.map_err(|_| RequestError::Gone)?;
        answer.await.map_err(|_| RequestError::Gone)?
    }

    /// Leases updates.
    ///
    /// # Errors
    /// The service has ended, or cannot be reached; or there can be no further subscription there.
    pub async fn subscribe(&self, interest: Interest) -> Result<Subscription, RequestError> {
        let (sender, updates) = mpsc::channel(PENDING_UPDATES);
        self.lease(interest, sender).await?;
        Ok(Subscription { updates, on_demand: None })
    }

    /// Leases updates for a client that may stop taking them for long: but one is made ahead for it.
    ///
    /// # Errors
    /// As of [`Handle::subscribe`].
    pub async fn subscribe_on_demand(&self, interest: Interest) -> Result<Subscription, RequestError> {
        let (sender, updates) = mpsc::channel(1);
        let on_demand = Some(OnDemand { room: sender.downgrade(), taken: None });
        self.lease(interest, sender).await?;
        Ok(Subscription { updates, on_demand })
    }

    async fn lease(&self, interest: Interest, updates: mpsc::Sender<Update>) -> Result<(), RequestError> {
        let (begun, has_begun) = oneshot::channel();
        let call = ServiceCall::Subscribe { interest, updates, begun };
        self.calls.send(call).await.map_err(|_| RequestError::Gone)?;
        has_begun.await.map_err(|_| RequestError::Gone)?
    }
}

impl Subscription {
    /// The next update; `None` once the service has ended.
    pub async fn next(&mut self) -> Option<Update> {
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.taken = None;
        }
        let update = self.updates.recv().await;
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.taken = on_demand.room.upgrade().and_then(|room| room.try_reserve_owned().ok());
        }
        update
    }

    /// An update that has already arrived.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}
