//! Something of each account, for those that are asked for again and again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::event::AccountName;

/// One of each account, made when it is first asked for. Only of accounts that are configured, so that they are few.
#[derive(Debug)]
pub struct ByAccount<T>(RwLock<HashMap<AccountName, Arc<T>>>);

impl<T> Default for ByAccount<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> ByAccount<T> {
    /// The account's, which `new` makes where there is none.
    pub fn of(&self, account: &AccountName, new: impl FnOnce(&AccountName) -> T) -> Arc<T> {
        self.known(account).unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(account.clone()).or_insert_with(|| Arc::new(new(account))).clone()
        })
    }

    /// The account's, where it was asked for before.
    pub fn known(&self, account: &AccountName) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(account).cloned()
    }
}
