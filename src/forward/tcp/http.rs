//! What a connection of HTTP needs of this pipeline beyond others: the way to the target once more, for the next request
//! after the target has closed its connection.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dial::{self, Dialed};
use super::{Admitted, Errand, MappingLinks, Standing};
use crate::forward::context::Route;
pub(super) use crate::forward::http::Inspector;
use crate::forward::http::{self, Plan, Redialled};
use crate::forward::registry::{OpenConnection, Record};
use crate::forward::relay::{Leg, Outcome};
use crate::model::event::CloseReason;
use crate::model::identity;
use crate::model::profile::MappingConfig;

/// Requests are to say who the client is.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) config: Arc<MappingConfig>,
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
    let Wanted { config, drain } = wanted;
    let record = connection.record();
    // Of a client that a PROXY header has told, it is that client who has written the requests.
    let is_trusted = identity::contains(&config.trusted_cidrs, record.client().ip());
    let (errand, route, links, record) =
        (Arc::new(errand.again()), route.clone(), Arc::clone(links), Arc::clone(record));
    let redial = move || {
        let (errand, route, links, record) =
            (Arc::clone(&errand), route.clone(), Arc::clone(&links), Arc::clone(&record));
        Box::pin(async move { redial(&errand, &route, &links, &record).await }) as _
    };
    Plan { is_trusted, redial: Box::new(redial), drain }
}

/// Serves a connection that stands.
pub(super) async fn run(standing: Standing, plan: Plan, connection: &OpenConnection, admitted: &Admitted) -> Outcome {
    let Standing { legs: [client, target], own, .. } = standing;
    let standing = http::Standing { client, target, own };
    http::run(standing, plan, connection, &admitted.timeouts, &admitted.links.pipes).await
}

/// Dials as the first time. Whoever waits for it may give up at any moment.
async fn redial(
    errand: &Errand,
    route: &watch::Receiver<Arc<Route>>,
    links: &MappingLinks,
    record: &Record,
) -> Result<Redialled, Outcome> {
    if errand.has_lost_all(&route.borrow()) {
        return Err(CloseReason::TargetUnreachable.into());
    }
    let started = Instant::now();
    let first = dial::set_out(&errand.targets, errand.protocol, &errand.caller);
    let dialed = dial::dial(first, &errand.targets, errand.protocol, errand.connect_within, &errand.caller).await;
    let Dialed { fd, source, target, broken, own } = errand.settle(dialed, record, links, started, &route.borrow())?;
    let leg = Leg::from_registered(fd, errand.protocol).broken_by(broken);
    Ok(Redialled { leg, source, target, own })
}
