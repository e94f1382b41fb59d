//! Reads what a request brings: its body, its query, a part of its path. What cannot be read is refused in words
//! and as JSON, as everything else is.

use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::Operation;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::refused::Refused;

/// A body of JSON, whatever its content type says: `curl -d` says another one.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// The query; unknown parameters are refused by its type.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

/// Parts of the path.
#[derive(Debug)]
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|_| Refused::with(StatusCode::PAYLOAD_TOO_LARGE, "a message may have 1 MiB"))?;
        if bytes.is_empty() {
            return Err(Refused::unreadable("body", "is empty: JSON is wanted"));
        }
        from_json(&bytes).map(Self).map_err(|error| Refused::unreadable("body", &error.to_string()))
    }
}

/// To JSON and its schemas, `3.0` is an integer like `3`; to serde it is not. The error is that of the text as it was
/// sent.
fn from_json<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text).or_else(|error| {
        let mut value: Value = serde_json::from_slice(text)?;
        make_whole(&mut value);
        serde_json::from_value(value).map_err(|_| error)
    })
}

fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0);
            if let Some(whole) = whole.and_then(|whole| format!("{whole:.0}").parse::<u64>().ok()) {
                *number = whole.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_whole),
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        _ => {}
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(params)| Self(params)).map_err(|error| Refused::unreadable("query", &error.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(place)| Self(place)).map_err(|error| Refused::unreadable("path", &error.body_text()))
    }
}

impl<T: JsonSchema> OperationInput for Body<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Json::<T>::operation_input(ctx, operation);
    }
}

impl<T: JsonSchema> OperationInput for Params<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Query::<T>::operation_input(ctx, operation);
    }
}

impl<T: JsonSchema> OperationInput for At<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Path::<T>::operation_input(ctx, operation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        assert_eq!(from_json::<Vec<u64>>(b"[3.0, 3, 1e3, 18446744073709551615]").unwrap(), [3, 3, 1_000, u64::MAX]);
        for text in ["[3.5]", "[-1.0]", "[1e30]", "[\"3.0\"]"] {
            let error = from_json::<Vec<u64>>(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("expected u64 at line 1"), "{error}");
        }
    }
}
