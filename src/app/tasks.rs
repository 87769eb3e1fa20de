//! Named, owned tasks (INV-17): nothing runs that nobody waits for, and a stop names who was late.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio::time::Instant;

/// How a task ended.
#[derive(Debug)]
pub enum Ended<E> {
    /// With what it returned.
    With(Result<(), E>),
    /// By a panic, or because it was aborted.
    Abnormally(String),
}

/// A set of tasks that know their names. Dropping it aborts them all.
#[derive(Debug)]
pub struct Tasks<E> {
    set: JoinSet<(Arc<str>, Result<(), E>)>,
    running: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

impl<E: Send + 'static> Default for Tasks<E> {
    fn default() -> Self {
        Self { set: JoinSet::new(), running: Arc::default() }
    }
}

/// Takes the name out when the task ends in whatever way, a panic and an abort included.
struct Running(Arc<str>, Arc<Mutex<BTreeSet<Arc<str>>>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

impl<E: Send + 'static> Tasks<E> {
    /// Starts a task under a name that no running task of this set has.
    pub fn spawn(&mut self, name: impl Into<Arc<str>>, task: impl Future<Output = Result<(), E>> + Send + 'static) {
        let name = name.into();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let running = Running(name.clone(), self.running.clone());
        self.set.spawn(async move {
            let running = running;
            let result = task.await;
            (running.0.clone(), result)
        });
    }

    /// Waits for the next task to end; none when the set is empty. Safe to cancel.
    pub async fn next_ended(&mut self) -> Option<(Option<Arc<str>>, Ended<E>)> {
        Some(match self.set.join_next().await? {
            Ok((name, result)) => (Some(name), Ended::With(result)),
            Err(error) => (None, Ended::Abnormally(error.to_string())),
        })
    }

    /// The names of the tasks that still run.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until every task has ended, at most until `deadline`; then the rest is aborted. Gives the names of those
    /// that were late, and hands every failure to `failed`.
    pub async fn drain(mut self, deadline: Instant, mut failed: impl FnMut(Option<&str>, Ended<E>)) -> Vec<Arc<str>> {
        loop {
            match tokio::time::timeout_at(deadline, self.next_ended()).await {
                Ok(None) => return Vec::new(),
                Ok(Some((_, Ended::With(Ok(()))))) => {}
                Ok(Some((name, ended))) => failed(name.as_deref(), ended),
                Err(_) => {
                    let late = self.names();
                    self.set.shutdown().await;
                    return late;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_by_its_deadline_and_names_the_stragglers() {
        let mut tasks = Tasks::<String>::default();
        tasks.spawn("quick", async { Ok(()) });
        tasks.spawn("failing", async { Err("no".to_owned()) });
        tasks.spawn("straggler", std::future::pending());
        let mut failures = Vec::new();
        let late = tasks
            .drain(Instant::now() + Duration::from_secs(5), |name, _| failures.push(name.map(str::to_owned)))
            .await;
        assert_eq!(late, vec![Arc::from("straggler")]);
        assert_eq!(failures, vec![Some("failing".to_owned())]);
    }
}
