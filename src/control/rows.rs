//! Rows as they are at one moment: the first update of a subscription, which holds them all.

use crate::model::id::{ConnectionId, MappingId};
use crate::model::request::RequestError;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Interest, MappingRow, Update};
use crate::service::Handle;

use super::refused::Refused;

/// Everything of `interest`, now.
pub(super) async fn look(handle: &Handle, interest: Interest) -> Result<Update, RequestError> {
    let mut subscription = handle.subscribe(interest).await?;
    subscription.next().await.ok_or(RequestError::Gone)
}

/// Mappings of ours, in the order of the profile, and of Docker behind them if they are asked for.
pub(super) async fn mappings(handle: &Handle, published: bool) -> Result<(Update, Vec<MappingRow>), RequestError> {
    let mut update = look(handle, Interest { mappings: true, published, ..Interest::default() }).await?;
    let order = update.overview.as_ref().map(|overview| overview.order.clone()).unwrap_or_default();
    let mut rows = std::mem::take(&mut update.mappings);
    let place = |row: &MappingRow| order.iter().position(|id| *id == row.id).unwrap_or(usize::MAX);
    rows.sort_by_cached_key(|row| (place(row), row.name.clone()));
    Ok((update, rows))
}

/// The mapping of that name, or else of that id.
pub(super) async fn mapping(handle: &Handle, name_or_id: &str) -> Result<(Update, MappingRow), Refused> {
    let (update, mut rows) = mappings(handle, false).await?;
    let by_name = rows.iter().position(|row| row.name == name_or_id);
    let by_id = || {
        let id = name_or_id.parse().ok().map(MappingId)?;
        rows.iter().position(|row| row.id == id)
    };
    match by_name.or_else(by_id) {
        Some(at) => Ok((update, rows.swap_remove(at))),
        None => Err(Refused::not_found(&format!("mapping {}", SafeText::quoted(name_or_id)))),
    }
}

/// Connections: the open ones, and with `closed` those that closed lately. Oldest first.
pub(super) async fn connections(handle: &Handle, closed: bool) -> Result<Vec<ConnectionRow>, RequestError> {
    let interest = Interest { connections: true, processes: true, ..Interest::default() };
    let mut rows = look(handle, interest).await?.connections;
    rows.retain(|row| closed || row.connection.reason.is_none());
    rows.sort_by_key(|row| row.connection.id);
    Ok(rows)
}

/// The connection of that id, open or closed lately.
pub(super) async fn connection(handle: &Handle, id: ConnectionId) -> Result<ConnectionRow, Refused> {
    let rows = connections(handle, true).await?;
    let found = rows.into_iter().find(|row| row.connection.id == id);
    found.ok_or_else(|| Refused::not_found(&format!("connection {id}")))
}
