//! The resources: the requests of `model::request` under `/v1`, the same for every client.
//!
//! `/v1/call` and `/v1/updates` carry requests and updates as they are, for screens in other processes; everything else
//! says the same in the way of HTTP, for scripts. `revision` in a query names the state that a change was made from;
//! it is refused (409) when that is no longer the one that stands.

use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with, put_with};
use aide::openapi::{Info, OpenApi, Server};
use aide::transform::TransformOperation;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::extract::{At, Body, Params};
use super::refused::Refused;
use super::rows;
use super::stream::{self, Lines};
use crate::metrics;
use crate::model::container::{Container, DockerState, InsideListener};
use crate::model::duration::parse_timeout;
use crate::model::event::Event;
use crate::model::id::{ConnectionId, MappingId, Revision};
use crate::model::mapping::{Listen, Protocol, Target};
use crate::model::profile::WrittenMapping;
use crate::model::report::Report;
use crate::model::request::{Call, PortReport, ProbeResult, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Interest, MappingRow, Overview, Update};
use crate::service::Handle;

/// Streams open at once; the rest of the clients' places is for questions.
const STREAMS: usize = 48;
/// Time between two `traffic` events, unless the query says otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the resources answer from.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    handle: Handle,
    streams: Arc<Semaphore>,
    document: Arc<OpenApi>,
}

/// Every resource, over the service of `handle`.
pub(super) fn router(handle: Handle) -> Router {
    let (resources, document) = described();
    let streams = Arc::new(Semaphore::new(STREAMS));
    let desk = Desk { handle, streams, document: Arc::new(document) };
    let document = axum::routing::get(async |State(desk): State<Desk>| Json(OpenApi::clone(&desk.document)));
    resources
        .route("/openapi.json", document)
        .route("/metrics", axum::routing::get(metrics))
        .fallback(async |request: HttpRequest| Refused::not_found(SafeText::quoted(request.uri().path()).as_str()))
        .method_not_allowed_fallback(async || Refused::with(StatusCode::METHOD_NOT_ALLOWED, "not by this method"))
        .with_state(desk)
}

/// What the control socket understands, as an `OpenAPI` 3.1 document.
pub fn openapi() -> OpenApi {
    described().1
}

fn described() -> (Router<Desk>, OpenApi) {
    let mut document = OpenApi {
        info: Info {
            title: "portolan".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some("The control socket of a running engine, as its owner and root can use it.".into()),
            ..Info::default()
        },
        servers: vec![Server { url: "http://portolan".into(), ..Server::default() }],
        ..OpenApi::default()
    };
    let router = resources().finish_api(&mut document);
    (router, document)
}

/// `summary`, for an operation called `id`.
fn says(
    id: &'static str,
    summary: &'static str,
) -> impl for<'t> FnOnce(TransformOperation<'t>) -> TransformOperation<'t> {
    move |operation| operation.id(id).summary(summary)
}

fn resources() -> ApiRouter<Desk> {
    ApiRouter::new()
        .api_route("/v1/engine", get_with(engine, says("engine", "State of the whole")))
        .api_route(
            "/v1/mappings",
            get_with(list_mappings, says("list_mappings", "Every mapping, in the order of the profile"))
                .post_with(add_mapping, says("add_mapping", "Adds a mapping")),
        )
        .api_route("/v1/mappings:batch", post_with(add_all, says("add_mappings", "Adds several mappings, all or none")))
        .api_route(
            "/v1/mappings/{mapping}",
            get_with(get_mapping, says("get_mapping", "A mapping, by its name or id"))
                .put_with(edit_mapping, says("edit_mapping", "Replaces a mapping"))
                .delete_with(remove_mapping, says("remove_mapping", "Removes a mapping, resetting its connections")),
        )
        .api_route("/v1/mappings/{mapping}/start", post_with(start, says("start_mapping", "Starts a mapping")))
        .api_route(
            "/v1/mappings/{mapping}/stop",
            post_with(stop, says("stop_mapping", "Stops a mapping, resetting its connections")),
        )
        .api_route(
            "/v1/mappings/{mapping}/why",
            post_with(why, says("why", "Why it does not work: its target is connected to once for each address")),
        )
        .api_route(
            "/v1/connections",
            get_with(list_connections, says("list_connections", "Connections and UDP flows, oldest first")),
        )
        .api_route(
            "/v1/connections/{id}",
            get_with(get_connection, says("get_connection", "A connection, open or closed lately"))
                .delete_with(kill, says("kill_connection", "Resets a connection")),
        )
        .api_route("/v1/containers", get_with(containers, says("list_containers", "The containers known now")))
        .api_route(
            "/v1/containers/{container}/listeners",
            get_with(inside, says("list_listeners", "Who listens inside a container")),
        )
        .api_route(
            "/v1/profiles",
            get_with(profiles, says("list_profiles", "Names of the profiles, and which is open"))
                .post_with(save_as, says("save_as", "Writes the mappings to a new profile, and opens that")),
        )
        .api_route("/v1/profile", put_with(open_profile, says("open_profile", "Opens another profile")))
        .api_route("/v1/undo", post_with(undo, says("undo", "Takes the last change back")))
        .api_route("/v1/validate", post_with(validate, says("validate", "Checks a mapping without adding it")))
        .api_route("/v1/ports", post_with(who_holds, says("who_holds", "Who holds these ports, and which is free")))
        .api_route("/v1/probe", post_with(probe, says("probe", "Connects to each address of a target once")))
        .api_route("/v1/shutdown", post_with(shutdown, says("shutdown", "Ends the engine")))
        .api_route("/v1/events", get_with(events, says("events", "What happens, and traffic between it, as it comes")))
        .api_route("/v1/updates", post_with(updates, says("updates", "Rows and events as they change, for screens")))
        .api_route("/v1/call", post_with(call, says("call", "A request as it is, for screens")))
}

/// An answer: JSON, or why not.
type Answer<T> = Result<Json<T>, Refused>;

/// From which state a change was made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Expects {
    /// Refuse (409) unless the desired state stands at this revision.
    revision: Option<Revision>,
}

/// How a mapping is added or replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Changing {
    /// Refuse (409) unless the desired state stands at this revision.
    revision: Option<Revision>,
    /// Keep the mapping although its port is in use: it is `failed` then, and retried.
    #[serde(default)]
    even_if_busy: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct MappingPath {
    /// Its name, or its id.
    mapping: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ConnectionPath {
    /// Its id.
    id: ConnectionId,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ContainerPath {
    /// Its full id.
    container: String,
}

/// The mappings at one moment.
#[derive(Debug, Serialize, JsonSchema)]
struct MappingList {
    /// Of the desired state: a change made from this list names it.
    revision: Revision,
    /// In the order of the profile.
    mappings: Vec<MappingRow>,
}

/// A change that was made.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    /// The mappings it concerned.
    ids: Vec<MappingId>,
    /// One line for people.
    message: SafeText,
}

/// What runs.
#[derive(Debug, Serialize, JsonSchema)]
struct Engine {
    /// Release of the program.
    version: String,
    /// Its process.
    pid: u32,
    /// State of the whole.
    #[serde(flatten)]
    overview: Overview,
}

async fn engine(State(desk): State<Desk>) -> Answer<Engine> {
    let overview = rows::look(&desk.handle, Interest { mappings: true, ..Interest::default() }).await?.overview;
    Ok(Json(Engine {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        overview: overview.unwrap_or_default(),
    }))
}

async fn list_mappings(State(desk): State<Desk>, Params(query): Params<Listing>) -> Answer<MappingList> {
    let (update, mappings) = rows::mappings(&desk.handle, query.published).await?;
    let revision = update.overview.map(|overview| overview.revision).unwrap_or_default();
    Ok(Json(MappingList { revision, mappings }))
}

/// Which mappings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// List what Docker itself publishes, too.
    #[serde(default)]
    published: bool,
}

async fn add_mapping(
    State(desk): State<Desk>,
    Params(query): Params<Changing>,
    Body(mapping): Body<WrittenMapping>,
) -> Answer<Done> {
    desk.change(query.revision, Request::Add { mapping, even_if_busy: query.even_if_busy }).await
}

/// Several mappings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Several {
    /// In the order in which they are added.
    mappings: Vec<WrittenMapping>,
}

async fn add_all(
    State(desk): State<Desk>,
    Params(query): Params<Changing>,
    Body(several): Body<Several>,
) -> Answer<Done> {
    let request = Request::AddAll { mappings: several.mappings, even_if_busy: query.even_if_busy };
    desk.change(query.revision, request).await
}

async fn get_mapping(State(desk): State<Desk>, At(place): At<MappingPath>) -> Answer<MappingRow> {
    Ok(Json(rows::mapping(&desk.handle, &place.mapping).await?.1))
}

async fn edit_mapping(
    State(desk): State<Desk>,
    At(place): At<MappingPath>,
    Params(query): Params<Changing>,
    Body(mapping): Body<WrittenMapping>,
) -> Answer<Done> {
    let (_, row) = rows::mapping(&desk.handle, &place.mapping).await?;
    let request = Request::Edit { id: row.id, mapping, even_if_busy: query.even_if_busy };
    desk.change(query.revision, request).await
}

async fn remove_mapping(
    State(desk): State<Desk>,
    At(place): At<MappingPath>,
    Params(query): Params<Expects>,
) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Remove { ids }).await
}

async fn start(State(desk): State<Desk>, At(place): At<MappingPath>, Params(query): Params<Expects>) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Start { ids }).await
}

async fn stop(State(desk): State<Desk>, At(place): At<MappingPath>, Params(query): Params<Expects>) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Stop { ids }).await
}

async fn why(State(desk): State<Desk>, At(place): At<MappingPath>) -> Answer<Report> {
    let (_, row) = rows::mapping(&desk.handle, &place.mapping).await?;
    match desk.ask(Request::Why { id: row.id }).await? {
        Reply::Why(report) => Ok(Json(*report)),
        other => Err(unexpected(&other)),
    }
}

/// Which connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Connecting {
    /// Those that closed lately, too.
    #[serde(default)]
    closed: bool,
    /// Of this mapping alone: its name, or its id.
    mapping: Option<String>,
}

/// Connections at one moment.
#[derive(Debug, Serialize, JsonSchema)]
struct ConnectionList {
    /// Oldest first.
    connections: Vec<ConnectionRow>,
}

async fn list_connections(State(desk): State<Desk>, Params(query): Params<Connecting>) -> Answer<ConnectionList> {
    let of = match &query.mapping {
        Some(mapping) => Some(rows::mapping(&desk.handle, mapping).await?.1.id),
        None => None,
    };
    let mut connections = rows::connections(&desk.handle, query.closed).await?;
    connections.retain(|row| of.is_none_or(|of| row.mapping_id == of));
    Ok(Json(ConnectionList { connections }))
}

async fn get_connection(State(desk): State<Desk>, At(place): At<ConnectionPath>) -> Answer<ConnectionRow> {
    Ok(Json(rows::connection(&desk.handle, place.id).await?))
}

async fn kill(State(desk): State<Desk>, At(place): At<ConnectionPath>) -> Answer<Done> {
    desk.change(None, Request::Kill { id: place.id }).await
}

/// Containers.
#[derive(Debug, Serialize, JsonSchema)]
struct ContainerList {
    /// Running ones first, by name.
    containers: Vec<Container>,
    /// Whether the list can be trusted.
    docker: DockerState,
}

async fn containers(State(desk): State<Desk>) -> Answer<ContainerList> {
    match desk.ask(Request::Containers).await? {
        Reply::Containers { containers, docker } => Ok(Json(ContainerList { containers, docker })),
        other => Err(unexpected(&other)),
    }
}

/// Who listens inside a container.
#[derive(Debug, Serialize, JsonSchema)]
struct Listeners {
    /// Lowest port first.
    listeners: Vec<InsideListener>,
    /// Why they cannot be seen, and what that needs.
    unseen: Option<SafeText>,
}

async fn inside(State(desk): State<Desk>, At(place): At<ContainerPath>) -> Answer<Listeners> {
    match desk.ask(Request::Inside { container: SafeText::new(&place.container) }).await? {
        Reply::Inside { listeners, unseen } => Ok(Json(Listeners { listeners, unseen })),
        other => Err(unexpected(&other)),
    }
}

/// Profiles of the config folder.
#[derive(Debug, Serialize, JsonSchema)]
struct ProfileList {
    /// Names, sorted.
    names: Vec<String>,
    /// The open one.
    open: Option<String>,
}

async fn profiles(State(desk): State<Desk>) -> Answer<ProfileList> {
    match desk.ask(Request::Profiles).await? {
        Reply::Profiles { names, open } => Ok(Json(ProfileList { names, open })),
        other => Err(unexpected(&other)),
    }
}

/// A profile by its name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProfileName {
    /// Letters, digits, `.`, `_` and `-`, up to 64.
    name: String,
}

async fn save_as(State(desk): State<Desk>, Body(profile): Body<ProfileName>) -> Answer<Done> {
    desk.change(None, Request::SaveAs { name: profile.name }).await
}

async fn open_profile(State(desk): State<Desk>, Body(profile): Body<ProfileName>) -> Answer<Done> {
    desk.change(None, Request::OpenProfile { name: profile.name }).await
}

async fn undo(State(desk): State<Desk>, Params(query): Params<Expects>) -> Answer<Done> {
    desk.change(query.revision, Request::Undo).await
}

/// A mapping to be checked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Checking {
    /// The mapping.
    mapping: WrittenMapping,
    /// The mapping that it would replace.
    #[serde(default)]
    replaces: Option<MappingId>,
}

/// A mapping that is fine.
#[derive(Debug, Serialize, JsonSchema)]
struct Valid {
    /// The name that it would get.
    name: String,
    /// What to know of it.
    notes: Vec<SafeText>,
    /// Where clients will find it, best first.
    places: Vec<SafeText>,
}

async fn validate(State(desk): State<Desk>, Body(checking): Body<Checking>) -> Answer<Valid> {
    let Checking { mapping, replaces } = checking;
    match desk.ask(Request::Validate { mapping, replaces }).await? {
        Reply::Valid { name, notes, places, .. } => Ok(Json(Valid { name, notes, places })),
        other => Err(unexpected(&other)),
    }
}

/// Ports to be looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ports {
    /// The listen side of a mapping.
    listen: Listen,
    /// By which protocol.
    #[serde(default)]
    protocol: Protocol,
    /// A mapping that may hold it already.
    #[serde(default)]
    except: Option<MappingId>,
}

async fn who_holds(State(desk): State<Desk>, Body(ports): Body<Ports>) -> Answer<PortReport> {
    let Ports { listen, protocol, except } = ports;
    match desk.ask(Request::WhoHolds { listen, protocol, except }).await? {
        Reply::Port(report) => Ok(Json(report)),
        other => Err(unexpected(&other)),
    }
}

/// A target to be tried.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Trying {
    /// Whom.
    target: Target,
    /// By what.
    #[serde(default)]
    protocol: Protocol,
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Tried {
    /// In the order of trying.
    results: Vec<ProbeResult>,
    /// Why there is none.
    reason: Option<SafeText>,
}

async fn probe(State(desk): State<Desk>, Body(trying): Body<Trying>) -> Answer<Tried> {
    let Trying { target, protocol } = trying;
    match desk.ask(Request::Probe { target, protocol }).await? {
        Reply::Probed { results, reason } => Ok(Json(Tried { results, reason })),
        other => Err(unexpected(&other)),
    }
}

/// How to end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ending {
    /// How long connections may finish, in milliseconds.
    #[serde(default)]
    drain_ms: u64,
}

async fn shutdown(State(desk): State<Desk>, Params(ending): Params<Ending>) -> Answer<Done> {
    desk.change(None, Request::Shutdown { drain_ms: ending.drain_ms }).await
}

/// How events are told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Telling {
    /// Time between two `traffic` events, such as `1s`; at least 20ms.
    interval: Option<String>,
}

async fn events(State(desk): State<Desk>, Params(query): Params<Telling>) -> Result<Lines<Event>, Refused> {
    let every = match &query.interval {
        None => INTERVAL,
        Some(text) => {
            let every =
                parse_timeout("interval", text).map_err(|problem| RequestError::Invalid { problems: vec![problem] })?;
            if every < Duration::from_millis(20) {
                return Err(Refused::unreadable("interval", "the shortest is 20ms"));
            }
            every
        }
    };
    let sample_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).min(250);
    let interest = Interest { mappings: true, connections: true, events: true, sample_ms, ..Interest::default() };
    let place = desk.place()?;
    Ok(stream::events(desk.handle.subscribe(interest).await?, every, place))
}

async fn updates(State(desk): State<Desk>, Body(interest): Body<Interest>) -> Result<Lines<Update>, Refused> {
    let place = desk.place()?;
    Ok(stream::updates(desk.handle.subscribe(interest).await?, place))
}

async fn call(State(desk): State<Desk>, Body(call): Body<Call>) -> Answer<Reply> {
    Ok(Json(desk.handle.call(call).await?))
}

/// The counters in Prometheus' text format.
async fn metrics(State(desk): State<Desk>) -> Result<impl IntoResponse, Refused> {
    let metrics = match desk.ask(Request::Metrics).await? {
        Reply::Metrics(metrics) => metrics,
        other => return Err(unexpected(&other)),
    };
    let text = metrics::text(&metrics)
        .map_err(|_| Refused::with(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}

impl Desk {
    async fn ask(&self, request: Request) -> Result<Reply, Refused> {
        Ok(self.handle.request(request).await?)
    }

    async fn change(&self, expected: Option<Revision>, request: Request) -> Answer<Done> {
        match self.handle.call(Call { expected, request }).await? {
            Reply::Done { ids, message, .. } => Ok(Json(Done { ids, message })),
            other => Err(unexpected(&other)),
        }
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refused::with(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("{STREAMS} streams are open, as many as there may be"),
            )
        })
    }
}

/// The service has answered another question.
fn unexpected(reply: &Reply) -> Refused {
    tracing::error!(?reply, "an answer to another question");
    RequestError::Gone.into()
}
