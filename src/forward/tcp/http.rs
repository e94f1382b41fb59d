//! What a connection of HTTP needs of this pipeline beyond others: the way to the target once more, for the next request
//! after the target has closed its connection.
//!
//! It leads to where the mapping leads by then: a container that was made anew has another address, and a target may have
//! been edited. What is believed of a client, and how it is served, stays as it was when it came.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dial::{self, Dialed};
use super::{Admitted, Errand, MappingLinks, Standing};
use crate::forward::context::{Addresses, Route};
pub(super) use crate::forward::http::Inspector;
use crate::forward::http::{self, Plan, Redialled};
use crate::forward::pressure::Limit;
use crate::forward::registry::{OpenConnection, Record};
use crate::forward::relay::{Leg, Outcome};
use crate::model::event::CloseReason;
use crate::model::identity;
use crate::model::profile::MappingConfig;

/// Requests are to say who the client is.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) config: Arc<MappingConfig>,
    /// Of the socket by which it came; says the target's port.
    pub(super) port: u16,
    pub(super) drain: CancellationToken,
}

/// How the connection is to be served. To be called once it is known who the client is.
pub(super) fn plan(
    wanted: Wanted,
    errand: &Errand,
    route: &watch::Receiver<Arc<Route>>,
    links: &Arc<MappingLinks>,
    connection: &OpenConnection,
) -> Plan {
    let Wanted { config, port, drain } = wanted;
    let record = connection.record();
    // Of a client that a PROXY header has told, it is that client who has written the requests. Where the header has told
    // nobody (`UNKNOWN`, `LOCAL`), anybody may have: that its sender is trusted is no word for them.
    let is_known = !config.accept_proxy || record.is_client_told();
    let is_trusted = is_known && identity::contains(&config.trusted_cidrs, record.client().ip());
    let (descriptors, pressed) = (Arc::clone(&errand.caller.descriptors), Arc::clone(links));
    let (errand, route, links, record) = (errand.again(), route.clone(), Arc::clone(links), Arc::clone(record));
    let redial = move || {
        let (errand, route, links, record) = (errand.again(), route.clone(), Arc::clone(&links), Arc::clone(&record));
        Box::pin(async move { redial(errand, port, &route, &links, &record).await }) as _
    };
    let beside = move || {
        descriptors.take(1).or_else(|| {
            pressed.pressure.press(Limit::Descriptors(descriptors.usage().1));
            None
        })
    };
    Plan { is_trusted, redial: Box::new(redial), beside: Box::new(beside), drain }
}

/// Serves a connection that stands.
pub(super) async fn run(standing: Standing, plan: Plan, connection: &OpenConnection, admitted: &Admitted) -> Outcome {
    let Standing { legs: [client, target], own, .. } = standing;
    let standing = http::Standing { client, target, own };
    http::run(standing, plan, connection, &admitted.timeouts, &admitted.links.pipes).await
}

/// Dials as a client would be led that comes now. Whoever waits for it may give up at any moment.
async fn redial(
    mut errand: Errand,
    port: u16,
    route: &watch::Receiver<Arc<Route>>,
    links: &MappingLinks,
    record: &Record,
) -> Result<Redialled, Outcome> {
    let now = Arc::clone(&route.borrow());
    let Addresses::Known(addresses) = &now.addresses else { return Err(CloseReason::TargetUnreachable.into()) };
    errand.targets = links.in_order(addresses, now.target_port(port));
    errand.is_container = now.config.mapping.target.host.is_container();
    errand.connect_within = now.config.connect_timeout;
    let started = Instant::now();
    let first = dial::set_out(&errand.targets, errand.protocol, &errand.caller);
    let dialed = dial::dial(first, &errand.targets, errand.protocol, errand.connect_within, &errand.caller).await;
    let Dialed { fd, source, target, broken, own } = errand.settle(dialed, record, links, started, &route.borrow())?;
    let leg = Leg::from_registered(fd, errand.protocol).broken_by(broken);
    Ok(Redialled { leg, source, target, own })
}
