//! What a client gets instead of an answer: the errors of `model`, as JSON with the same texts as everywhere.

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{Operation, ReferenceOr, Response as Described, StatusCode as Told};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::problem::Problem;
use crate::model::request::RequestError;
use crate::model::untrusted::SafeText;

/// A request that was not carried out.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: RequestError,
}

/// Why a request was not carried out. Nothing has changed then.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct ErrorBody {
    /// Which kind, and what goes with it.
    #[serde(flatten)]
    error: RequestError,
    /// What is wrong and what to do, for people.
    message: String,
}

/// How an operation may be refused, beside the ways in which each may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum May {
    /// 404.
    Missing,
    /// 409.
    Clash,
    /// 422.
    Invalid,
}

impl May {
    fn told(self) -> (u16, &'static str) {
        match self {
            Self::Missing => (404, "There is no such mapping, connection, container, profile or alias."),
            Self::Clash => {
                (409, "It cannot be done as things stand: a port is in use, another revision stands, or the like.")
            }
            Self::Invalid => (422, "What is asked for can be read but is not valid: every problem."),
        }
    }

    /// Says so in the document.
    pub(super) fn describe(refusals: &[Self], operation: &mut Operation) {
        let Some(responses) = &mut operation.responses else { return };
        let Some(any) = responses.responses.get(&Told::Code(400)).cloned() else { return };
        for (status, description) in refusals.iter().map(|may| may.told()) {
            let mut refused = any.clone();
            if let ReferenceOr::Item(refused) = &mut refused {
                description.clone_into(&mut refused.description);
            }
            responses.responses.insert(Told::Code(status), refused);
        }
    }
}

impl Refused {
    /// What was sent cannot be read: not the JSON, the query or the path that is wanted here.
    pub(super) fn unreadable(path: &str, problem: &str) -> Self {
        let problems = vec![Problem::new(path, problem)];
        Self { status: StatusCode::BAD_REQUEST, error: RequestError::Invalid { problems } }
    }

    /// It cannot be had; with the status that says so.
    pub(super) fn with(status: StatusCode, message: &str) -> Self {
        Self { status, error: RequestError::Failed { message: SafeText::new(message) } }
    }

    pub(super) fn not_found(what: &str) -> Self {
        RequestError::NotFound { what: SafeText::new(what) }.into()
    }

    /// The body, as an object.
    fn body(&self) -> Value {
        let mut body = serde_json::to_value(&self.error).unwrap_or_default();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("message".into(), self.error.to_string().into());
        }
        body
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            RequestError::PortInUse { .. } | RequestError::Stale { .. } | RequestError::Failed { .. } => {
                StatusCode::CONFLICT
            }
            RequestError::NotFound { .. } => StatusCode::NOT_FOUND,
            RequestError::Silent { .. } | RequestError::Gone => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, error }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
    }
}

impl OperationOutput for Refused {
    type Inner = ErrorBody;

    fn operation_response(ctx: &mut GenContext, operation: &mut Operation) -> Option<Described> {
        Json::<ErrorBody>::operation_response(ctx, operation)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<u16>, Described)> {
        let each = [
            (400, "What was sent cannot be read: not as HTTP, as JSON, or as what is wanted here."),
            (408, "The request was not sent within 10 s."),
            (413, "The request is longer than 1 MiB."),
            (503, "The engine ends, or has no place for one more."),
        ];
        each.into_iter()
            .filter_map(|(status, description)| {
                let mut described = Self::operation_response(ctx, operation)?;
                description.clone_into(&mut described.description);
                Some((Some(status), described))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;

    use super::*;
    use crate::model::id::Revision;

    #[test]
    fn each_error_crosses_as_it_is_with_its_text_beside_it() {
        for (error, status) in [
            (RequestError::Invalid { problems: vec![Problem::new("listen", "is no port")] }, 422),
            (RequestError::Stale { current: Revision(7) }, 409),
            (RequestError::NotFound { what: "mapping 3".into() }, 404),
            (RequestError::Failed { message: "nothing to undo".into() }, 409),
            (RequestError::Gone, 503),
        ] {
            let refused = Refused::from(error.clone());
            assert_eq!(refused.status.as_u16(), status);
            let body = refused.body();
            assert_eq!(body["message"], error.to_string());
            assert!(jsonschema::is_valid(&schema_for!(ErrorBody).to_value(), &body), "{body}");
            assert_eq!(serde_json::from_value::<RequestError>(body).unwrap(), error);
        }
    }
}
