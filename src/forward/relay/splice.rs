//! One direction through a pipe of the kernel: the payload never enters user memory.
//!
//! What is in the pipe is this direction's unsent rest, as the tail is of [`super::copy`]: it is emptied before anything
//! else is received, so bytes keep their order through every change of path.

use std::io;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};

use super::copy::{Failure, Step};
use super::leg::Leg;
use super::pace::Pace;
use super::pipes::{Pipe, PipePool};

/// What a direction holds while it splices: a pipe only while something moves.
#[derive(Debug, Default)]
pub(super) struct SplicePath {
    pipe: Option<Pipe>,
}

/// What one step has done, or that copying is to do it.
pub(super) enum Spliced {
    /// As a step of copying.
    Step(Step),
    /// No descriptors are left for a pipe, or nothing more can be spliced: whether that is the end, receiving tells. The
    /// kernel splices nothing at and beyond a mark of urgent data, and says 0 there as it does at an end.
    Copy,
}

impl SplicePath {
    /// Whether nothing waits in the pipe.
    pub(super) fn is_empty(&self) -> bool {
        self.pipe.as_ref().is_none_or(|pipe| pipe.held == 0)
    }

    /// Moves what can be moved in one go. Pending means that a wake-up is arranged for.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &Leg,
        to: &Leg,
        pool: &PipePool,
        pace: &mut Pace,
    ) -> Poll<Result<Spliced, Failure>> {
        if self.is_empty() {
            let pipe = match self.pipe.take().or_else(|| pool.take()) {
                Some(pipe) => self.pipe.insert(pipe),
                None => return Poll::Ready(Ok(Spliced::Copy)),
            };
            let received = from.poll_read_with(cx, |socket| {
                match splice(socket, None, pipe.write_end(), None, pipe.size, SpliceFFlags::SPLICE_F_NONBLOCK) {
                    Err(Errno::EAGAIN) => nothing_to_splice(from),
                    other => other,
                }
            });
            match received {
                Poll::Pending => {
                    self.let_go(pool);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    self.let_go(pool);
                    return Poll::Ready(Err(Failure::Source(error)));
                }
                Poll::Ready(Ok(0)) => {
                    self.let_go(pool);
                    return Poll::Ready(Ok(Spliced::Copy));
                }
                Poll::Ready(Ok(count)) => {
                    (pipe.held, pipe.received) = (count, count);
                    pace.spliced(count);
                }
            }
            // What the destination does not take now waits in the pipe.
            return match self.poll_empty(cx, to) {
                Poll::Ready(result) => Poll::Ready(result.map(Spliced::Step)),
                Poll::Pending => Poll::Ready(Ok(Spliced::Step(Step::Moved(0)))),
            };
        }
        let step = ready!(self.poll_empty(cx, to))?;
        Poll::Ready(Ok(Spliced::Step(step)))
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>, to: &Leg) -> Poll<Result<Step, Failure>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(Step::Moved(0))) };
        let (end, held) = (pipe.read_end(), pipe.held);
        let sent =
            to.poll_write_with(cx, |socket| splice(end, None, socket, None, held, SpliceFFlags::SPLICE_F_NONBLOCK));
        let sent = ready!(sent).map_err(|error| Failure::Destination(told(error, held < pipe.received)))?;
        pipe.held -= sent.min(held);
        Poll::Ready(Ok(Step::Moved(sent as u64)))
    }

    /// Gives the pipe back; with bytes in it, it is closed.
    pub(super) fn let_go(&mut self, pool: &PipePool) {
        if let Some(pipe) = self.pipe.take() {
            pool.give_back(pipe);
        }
    }
}

/// What it is that the kernel splices nothing: a mark of urgent data, or truly nothing. What has come in since is none of
/// both, be it bytes or an end, and receiving tells it; but an error is told once, so it is this call's.
fn nothing_to_splice(from: &Leg) -> nix::Result<usize> {
    from.peek().map(|_| 0)
}

/// Why sending has failed. A call that sends in several pieces says how much it has sent and swallows the error of a later
/// piece, so that the call for the `rest` says EPIPE whatever it was: not that the peer had ended, as it says otherwise.
/// Receiving from there, should it come first, says that the peer has ended: the relay asks the kernel then.
fn told(error: io::Error, rest: bool) -> io::Error {
    if rest && error.kind() == io::ErrorKind::BrokenPipe { io::ErrorKind::ConnectionReset.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::SockRef;

    use super::*;
    use crate::model::mapping::Protocol;

    #[tokio::test]
    async fn a_reset_that_comes_just_when_nothing_was_to_splice_is_not_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let leg = Leg::new(socket.try_clone().unwrap().into(), Protocol::Tcp).unwrap();
        assert_eq!(nothing_to_splice(&leg), Err(Errno::EAGAIN));
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], PollTimeout::NONE).unwrap();
        assert_eq!(nothing_to_splice(&leg), Err(Errno::ECONNRESET));
    }

    #[test]
    fn a_call_for_the_rest_of_a_pipe_tells_no_end_of_the_peer() {
        let kind = |rest| told(io::ErrorKind::BrokenPipe.into(), rest).kind();
        assert_eq!([kind(false), kind(true)], [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]);
    }
}
