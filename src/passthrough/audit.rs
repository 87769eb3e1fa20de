//! The line in the log that every write through the door leaves, however it ends.

use axum::http::{Method, StatusCode};

use crate::event::AccountName;

/// A write that may have left for the vendor. What is dropped without its [`end`](Self::ends) leaves its line too: a caller
/// that goes away takes the request with it, and not what the vendor has made of it.
#[derive(Debug)]
pub(super) struct Audit {
    key: String,
    account: AccountName,
    method: Method,
    /// Neither query nor body: they hold what people wrote.
    path: String,
    ended: bool,
}

impl Audit {
    /// Before the vendor is asked; `key` is the name of the caller's key.
    pub(super) fn begins(key: &str, account: &AccountName, method: &Method, segments: &[String]) -> Self {
        let path = format!("/{}", segments.join("/"));
        Self { key: key.to_owned(), account: account.clone(), method: method.clone(), path, ended: false }
    }

    /// The caller is told so.
    pub(super) fn ends(mut self, status: StatusCode) {
        self.ended = true;
        let Self { key, account, method, path, .. } = &self;
        let status = status.as_u16();
        tracing::info!(key, %account, %method, path, status, "a write passed the door");
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.ended {
            let Self { key, account, method, path, .. } = self;
            tracing::warn!(
                key, %account, %method, path,
                "a write passed the door, whose caller went away before the answer: the vendor may have carried it out"
            );
        }
    }
}
