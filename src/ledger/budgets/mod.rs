//! One budget of requests per account over all replicas: a row, and slices of it.

mod book;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub(super) use book::Book;

use super::database::{failed, within};
use super::open::Ledger;
use crate::event::budget::{BudgetAsk, BudgetBook, BudgetSlice};
use crate::event::ports::LedgerError;

const DOING: &str = "leasing a part of an account's budget";

impl BudgetBook for Ledger {
    fn lease(&self, ask: BudgetAsk) -> BoxFuture<'_, Result<BudgetSlice, LedgerError>> {
        async move {
            within(DOING, async {
                let mut session = self.0.db.begin().await.map_err(failed(DOING))?;
                // Locks, reads, and tells the time once the lock is held.
                let row = sqlx::query!(
                    r#"INSERT INTO budgets AS b (account) VALUES ($1)
                       ON CONFLICT ON CONSTRAINT budgets_pkey DO UPDATE SET turn = b.turn + 1, at = clock_timestamp()
                       RETURNING b.book, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now!""#,
                    ask.account.as_str()
                )
                .fetch_one(&mut *session)
                .await
                .map_err(failed(DOING))?;
                let mut book = Book::read(&row.book);
                let slice = book.lease(&ask, row.now).map_err(late)?;
                sqlx::query!("UPDATE budgets SET book = $2 WHERE account = $1", ask.account.as_str(), book.written())
                    .execute(&mut *session)
                    .await
                    .map_err(failed(DOING))?;
                session.done().await.map_err(failed(DOING))?;
                Ok(slice)
            })
            .await
        }
        .boxed()
    }
}

pub(super) fn late(turn: book::Late) -> LedgerError {
    LedgerError::Refused { doing: DOING, why: format!("the ask came late: {turn}") }
}
