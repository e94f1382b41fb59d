//! Where the streams of HTTP/2 run: in the connection's own task, as everything of one connection does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The tasks of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    /// Those that were begun while others ran.
    begun: Arc<Mutex<Begun>>,
    running: Arc<Mutex<FuturesUnordered<Task>>>,
}

#[derive(Default)]
struct Begun(Vec<Task>);

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks", self.0.len())
    }
}

impl Tasks {
    /// Runs all of them as far as they get.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            running.extend(std::mem::take(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner).0));
            match Pin::new(&mut *running).poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => {
                    if self.begun.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends all of them.
    pub(super) fn clear(&self) {
        // Dropped without the locks: what they hold may look here.
        let begun = std::mem::take(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner).0);
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        drop((begun, running));
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let task = Box::pin(async move {
            task.await;
        });
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).0.push(task);
    }
}
