//! [`Link`]: an open connection to a server.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisFuture, Value, aio::ConnectionLike};

use super::server_clock::ServerClock;

/// An open connection to a server, with what this node knows of the server's clock. Clones share
/// it.
#[derive(Clone)]
pub(crate) struct Link {
    socket: Socket,
    clock: Arc<ServerClock>,
    /// The server has said that it is one by itself.
    is_to_standalone: bool,
    /// Each command asks the server to serve a slot that is moving to it.
    asks: bool,
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(super) enum Socket {
    Own(redis::aio::MultiplexedConnection),
    Host(Box<dyn HostConnection>),
}

impl Link {
    pub(super) const fn new(
        socket: Socket,
        clock: Arc<ServerClock>,
        is_to_standalone: bool,
    ) -> Self {
        Self { socket, clock, is_to_standalone, asks: false }
    }

    /// `true` if it is to one server by itself, so that a call may have keys of several accounts:
    /// not if the server does not say so, as a proxy before several.
    pub(crate) const fn is_to_standalone(&self) -> bool {
        self.is_to_standalone
    }

    /// Returns the server's clock.
    pub(crate) const fn clock(&self) -> &Arc<ServerClock> {
        &self.clock
    }

    /// Has each command be served although its slot is still moving to this server.
    pub(super) fn asking(self) -> Self {
        Self { asks: true, ..self }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if self.asks {
            // In one write: another command between the two would take the permission.
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore().add_command(command.clone()).ignore_errors();
            return Box::pin(async move {
                let mut answers = self.socket.req_packed_commands(&both, 1, 1).await?;
                answers.pop().unwrap_or(Value::Nil).extract_error()
            });
        }
        self.socket.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.socket.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.socket.get_db()
    }
}

impl ConnectionLike for Socket {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Own(link) => link.req_packed_command(command),
            Self::Host(link) => link.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Own(link) => link.req_packed_commands(pipeline, offset, count),
            Self::Host(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Own(link) => link.get_db(),
            Self::Host(link) => link.get_db(),
        }
    }
}

/// A connection that can be cloned in its box.
pub(crate) trait HostConnection: ConnectionLike + Send + Sync {
    fn boxed(&self) -> Box<dyn HostConnection>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> HostConnection for C {
    fn boxed(&self) -> Box<dyn HostConnection> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn HostConnection> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}
