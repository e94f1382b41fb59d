//! Whether a client is let in, and where it goes: limits, connections to ourselves, a target without address, a peer
//! whose PROXY header is not to be believed.
//!
//! It stands before the header is read: who dribbles one has a place of the mapping's. It opens no socket. Whoever is not let in is reset, and the registry says why.

use std::net::SocketAddr;
use std::sync::Arc;

use super::dial::Caller;
use super::http::Wanted;
use super::{Admitted, Errand, ListenerEvent, MappingLinks, incoming};
use crate::forward::context::{Addresses, ListenerContext, Route};
use crate::forward::own::Chain;
use crate::forward::pressure::Limit;
use crate::forward::relay::{Outcome, Timeouts};
use crate::model::event::CloseReason;
use crate::model::identity::{Identity, Inspect};

/// Descriptors of one connection: its two sockets.
const DESCRIPTORS: u64 = 2;

/// Lets `client`, the peer of our socket, in with everything that it takes along, or says why not.
pub(super) fn admit(
    client: SocketAddr,
    route: &Route,
    context: &ListenerContext,
    links: &Arc<MappingLinks>,
) -> Result<(Admitted, Box<Errand>), Outcome> {
    let config = &route.config;
    if config.accept_proxy {
        incoming::check_peer(&config.trusted_cidrs, client.ip())?;
    }
    let chain = chain(client, context, links)?;
    let Addresses::Known(addresses) = &route.addresses else { return Err(CloseReason::TargetUnreachable.into()) };
    let place = links.place(config.max_connections).ok_or_else(|| {
        links.pressure.press(Limit::Connections(config.max_connections.unwrap_or(u32::MAX)));
        CloseReason::Limit
    })?;
    let descriptors = context.descriptors.take(DESCRIPTORS).ok_or_else(|| {
        links.pressure.press(Limit::Descriptors(context.descriptors.usage().1));
        CloseReason::Limit
    })?;
    let errand = Errand {
        caller: Caller {
            own: Arc::clone(&links.own),
            chain,
            descriptors: Arc::clone(&context.descriptors),
            source: None,
        },
        aliases: (config.identity == Identity::Alias)
            .then(|| (Arc::clone(context.registry.aliases()), config.alias_pool)),
        alias: None,
        targets: links.in_order(addresses, context.target_port(route)),
        is_container: config.mapping.target.host.is_container(),
        protocol: config.mapping.protocol,
        connect_within: config.connect_timeout,
        identity: config.identity,
        accepts_proxy: config.accept_proxy,
    };
    let http = (config.identity == Identity::Http)
        .then(|| Box::new(Wanted { config: Arc::clone(config), port: context.port, drain: context.drain.clone() }));
    let admitted = Admitted {
        is_inspected: config.inspect == Some(Inspect::Http) && http.is_none(),
        http,
        links: Arc::clone(links),
        timeouts: Timeouts { idle: config.idle_timeout, half_close: config.half_close_timeout },
        _place: place,
        _descriptors: descriptors,
    };
    Ok((admitted, Box::new(errand)))
}

/// The client's way here, continued by this mapping; refused when it has been here before.
fn chain(client: SocketAddr, context: &ListenerContext, links: &MappingLinks) -> Result<Arc<Chain>, CloseReason> {
    let mapping = context.meter.id();
    let before = links.own.chain_of(client);
    if let Some(circle) = before.as_ref().and_then(|before| before.circle(mapping, context.port)) {
        // When the queue is full, the next round trip through the circle tells it.
        let _ = links.events.try_send(Box::new(ListenerEvent::SelfForwarding(circle)));
        return Err(CloseReason::Rejected);
    }
    Ok(Chain::new(mapping, context.port, before))
}
