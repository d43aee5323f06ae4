//! Failures as OpenAI clients read them: `{"error": {message, type, param, code}}`.

use std::any::Any;
use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::service;

/// A failure on its way to the form that its route's dialect has.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub ApiError);

/// A failed request. Everything but `detail` is for the caller.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// The field that is wrong, as a path: `messages[0].content`.
    pub param: Option<Cow<'static, str>>,
    pub retry_after: Option<Duration>,
    /// For the log, under the request id.
    pub detail: Option<String>,
}

/// The part of a failure that goes to the log and not to the caller, on its way to the log.
#[derive(Debug, Clone)]
pub(super) struct Detail(pub String);

#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
struct ErrorObject<'a> {
    /// What is wrong and what to do.
    message: &'a str,
    /// The class of failure.
    r#type: &'a str,
    /// The field that is wrong.
    param: Option<&'a str>,
    /// The failure, for programs.
    code: Option<&'a str>,
}

impl ApiError {
    /// A failure with this status; `code` is for programs.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), param: None, retry_after: None, detail: None }
    }

    /// A field is wrong.
    pub fn invalid(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message).param(param)
    }

    /// A field asks for what this server does not do.
    pub fn unsupported(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).param(param)
    }

    /// Our own fault; `detail` goes to the log.
    pub fn internal(detail: impl Into<String>) -> ApiError {
        service::Error::Internal { detail: detail.into() }.into()
    }

    /// Names the field.
    pub fn param(mut self, param: impl Into<Cow<'static, str>>) -> ApiError {
        self.param = Some(param.into());
        self
    }

    /// Names the field unless one is named already.
    pub(super) fn or_param(mut self, param: &'static str) -> ApiError {
        if self.code == "context_length_exceeded" && self.param.is_none() {
            self.param = Some(param.into());
        }
        self
    }

    /// Says when to come back.
    pub fn retry_after(mut self, after: Duration) -> ApiError {
        self.retry_after = Some(after);
        self
    }

    /// OpenAI's name for the class.
    fn class(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The JSON body.
    pub(super) fn to_json(&self) -> String {
        let body = ErrorBody {
            error: ErrorObject {
                message: &self.message,
                r#type: self.class(),
                param: self.param.as_deref(),
                code: Some(self.code),
            },
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl From<service::Error> for ApiError {
    fn from(error: service::Error) -> ApiError {
        use service::Error as E;
        let message = error.to_string();
        let new = |status, code| ApiError::new(status, code, message.clone());
        match error {
            E::Invalid { param, .. } => ApiError::invalid(param, message),
            E::ContextLength { .. } => new(StatusCode::BAD_REQUEST, "context_length_exceeded"),
            E::UnknownModel { .. } => new(StatusCode::NOT_FOUND, "model_not_found").param("model"),
            E::WrongKind { .. } => new(StatusCode::BAD_REQUEST, "model_not_supported").param("model"),
            E::UnknownResponse { .. } => new(StatusCode::NOT_FOUND, "response_not_found"),
            E::UnknownCollection { .. } => new(StatusCode::NOT_FOUND, "collection_not_found"),
            E::Missing { .. } => new(StatusCode::NOT_FOUND, "not_found"),
            E::Full { .. } => new(StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            E::Conflict { .. } => new(StatusCode::CONFLICT, "conflict"),
            E::Overloaded { retry_after, .. } | E::OverShare { retry_after, .. } => {
                new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded").retry_after(retry_after)
            }
            E::Timeout { .. } => new(StatusCode::GATEWAY_TIMEOUT, "timeout"),
            E::Cancelled => new(StatusCode::SERVICE_UNAVAILABLE, "cancelled"),
            E::Unavailable { .. } => new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable")
                .retry_after(Duration::from_secs(2)),
            E::Internal { detail } => {
                ApiError { detail: Some(detail), ..new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error") }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json()));
        response.extensions_mut().insert(Failure(ApiError { detail: None, ..self.clone() }));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000).max(1)));
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(millis.max(1)));
        }
        if let Some(detail) = self.detail {
            response.extensions_mut().insert(Detail(detail));
        }
        response
    }
}

/// The answer to a request whose handler panicked; the panic's text goes to the log.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    ApiError::internal(format!("panic: {text}")).into_response()
}
