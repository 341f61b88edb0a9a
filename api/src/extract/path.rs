//! The variable part of a path, or a problem where it is no text.

use crate::problem::Problem;
use axum::extract::FromRequestParts;
use http::request::Parts;
use rhyzome_model::problem::FieldError;
use serde::de::DeserializeOwned;

/// As axum's, refused as everything here is.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let part = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        part.map(|part| Self(part.0)).map_err(|_| {
            let fault = FieldError::new("", "INVALID_VALUE", "the path is not UTF-8");
            Problem::invalid(vec![fault])
        })
    }
}
