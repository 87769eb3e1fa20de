//! Marks: what has changed since an answer was asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::ask::Outcome;
use super::by_account::ByAccount;
use super::subject::{Subject, also};
use crate::event::{AccountName, Page, Tenure};
use crate::mutant::{Mutant, planted};
use crate::telemetry::metrics::{PASSTHROUGH_CACHE_DROPS_TOTAL, PASSTHROUGH_CACHE_REQUESTS_TOTAL};

/// Moves with each change of what it stands for.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

/// Marks as they stood when an answer was asked for.
#[derive(Clone, Debug)]
pub(super) struct Standing(Vec<(Arc<Mark>, u64)>);

impl Standing {
    /// The same marks as an answer is kept with.
    pub(super) fn of_answer(self) -> Self {
        if planted(Mutant::OldAnswerKept) {
            let now = |(mark, _): (Arc<Mark>, u64)| (mark.0.load(Ordering::Acquire), mark);
            return Self(self.0.into_iter().map(now).map(|(is, mark)| (mark, is)).collect());
        }
        self
    }

    /// Whether nothing has changed since.
    pub(super) fn holds(&self) -> bool {
        self.0.iter().all(|(mark, was)| mark.0.load(Ordering::Acquire) == *was)
    }
}

/// Of each account, what answers depend on.
#[derive(Debug, Default)]
pub(super) struct Accounts(ByAccount<Account>);

/// One account: its era, and the marks that an answer here or under way depends on, and no others.
#[derive(Debug)]
pub(super) struct Account {
    /// Moves where it is not known what has changed: a gap, an element that was no event, a write of unknown reach.
    all: Arc<Mark>,
    /// Moves with every change: for answers that may show anything.
    any: Arc<Mark>,
    era: Mutex<Option<(u64, Tenure)>>,
    eras: AtomicU64,
    resources: Mutex<Resources>,
    drops: [metrics::Counter; 2],
    /// By outcome; the last one of those without an answer.
    asks: [metrics::Counter; Outcome::ALL.len() + 1],
}

#[derive(Debug, Default)]
struct Resources {
    named: HashMap<Box<str>, Resource>,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Resource {
    lists: Weak<Mark>,
    /// Moves with an event that names no record.
    unnamed: Weak<Mark>,
    records: HashMap<Box<str>, Weak<Mark>>,
}

/// Fewer records than this are not swept.
const SWEEP_FROM: usize = 1024;

/// Who changed something.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// An event.
    Event,
    /// A write at the door.
    Write,
}

/// A time in which this replica records all events of some accounts; over when it is dropped.
#[derive(Debug)]
#[must_use = "an era that is dropped is over"]
pub struct Era(Vec<(Arc<Account>, u64)>);

impl Drop for Era {
    fn drop(&mut self) {
        for (account, number) in &self.0 {
            let mut era = lock(&account.era);
            if era.as_ref().is_some_and(|(known, _)| known == number) {
                *era = None;
            }
        }
    }
}

impl Accounts {
    pub(super) fn of(&self, account: &AccountName) -> Arc<Account> {
        self.0.of(account, Account::new)
    }

    pub(super) fn begin(&self, accounts: impl IntoIterator<Item = AccountName>, tenure: &Tenure) -> Era {
        let begun = accounts.into_iter().map(|name| {
            let account = self.of(&name);
            let number = account.eras.fetch_add(1, Ordering::Relaxed) + 1;
            *lock(&account.era) = Some((number, tenure.clone()));
            (account, number)
        });
        Era(begun.collect())
    }

    pub(super) fn seen(&self, page: &Page) {
        // Of an account that nobody has looked anything up of nothing is kept.
        let Some(account) = self.0.known(&page.stream.account) else { return };
        if page.gap.is_some() || !page.rejected.is_empty() {
            account.moved_all(By::Event);
        }
        if page.events.is_empty() || planted(Mutant::EventUnheard) {
            return;
        }
        account.any.0.fetch_add(1, Ordering::AcqRel);
        let resources = lock(&account.resources);
        if resources.named.is_empty() {
            return;
        }
        for event in &page.events {
            account.moved(&resources, event.event_type.resource(), &event.record_id, By::Event);
        }
    }
}

impl Account {
    fn new(name: &AccountName) -> Self {
        let drops = ["event", "write"].map(
            |cause| metrics::counter!(PASSTHROUGH_CACHE_DROPS_TOTAL, "account" => name.to_string(), "cause" => cause),
        );
        let asks = std::array::from_fn(|at| {
            let outcome = Outcome::ALL.get(at).map_or("unanswered", |outcome| outcome.as_str());
            metrics::counter!(
                PASSTHROUGH_CACHE_REQUESTS_TOTAL, "account" => name.to_string(), "outcome" => outcome
            )
        });
        Self {
            all: Arc::default(),
            any: Arc::default(),
            era: Mutex::default(),
            eras: AtomicU64::new(0),
            resources: Mutex::default(),
            drops,
            asks,
        }
    }

    /// Counts a lookup by its outcome; none where it had no answer.
    pub(super) fn asked(&self, outcome: Option<Outcome>) {
        self.asks[outcome.map_or(Outcome::ALL.len(), |outcome| outcome as usize)].increment(1);
    }

    /// The era that it is; none while another replica may record events of the account.
    pub(super) fn era(&self) -> Option<u64> {
        lock(&self.era).as_ref().filter(|(_, tenure)| tenure.is_held()).map(|(number, _)| *number)
    }

    /// The marks of what an answer depends on, as they stand.
    pub(super) fn standing(&self, subjects: &[Subject]) -> Standing {
        let mut marks = vec![self.all.clone()];
        let mut resources = lock(&self.resources);
        for subject in subjects {
            match subject {
                Subject::Everything => marks.push(self.any.clone()),
                Subject::Lists(name) => marks.push(held(&mut resources.resource(name).lists)),
                Subject::Record(name, id) => {
                    let resource = resources.resource(name);
                    marks.push(held(&mut resource.unnamed));
                    marks.push(held(resource.records.entry(id.clone()).or_default()));
                }
            }
        }
        resources.sweep();
        Standing(
            marks.into_iter().map(|mark| (mark.0.load(Ordering::Acquire), mark)).map(|(is, mark)| (mark, is)).collect(),
        )
    }

    /// Something changed, and what cannot be told.
    pub(super) fn moved_all(&self, by: By) {
        self.all.0.fetch_add(1, Ordering::AcqRel);
        self.dropped(by);
    }

    /// Something of these subjects changed.
    pub(super) fn written(&self, subjects: &[Subject]) {
        self.any.0.fetch_add(1, Ordering::AcqRel);
        let resources = lock(&self.resources);
        for subject in subjects {
            match subject {
                Subject::Everything => self.moved_all(By::Write),
                Subject::Lists(name) => {
                    let lists = resources.named.get(name).and_then(|resource| resource.lists.upgrade());
                    self.moved_one(lists, By::Write);
                }
                Subject::Record(name, id) => self.moved(&resources, name, id, By::Write),
            }
        }
    }

    fn moved(&self, resources: &Resources, name: &str, id: &str, by: By) {
        for name in also(name) {
            let Some(resource) = resources.named.get(name) else { continue };
            self.moved_one(resource.lists.upgrade(), by);
            let record = if id.is_empty() { Some(&resource.unnamed) } else { resource.records.get(id) };
            self.moved_one(record.and_then(Weak::upgrade), by);
        }
    }

    fn moved_one(&self, mark: Option<Arc<Mark>>, by: By) {
        if let Some(mark) = mark {
            mark.0.fetch_add(1, Ordering::AcqRel);
            self.dropped(by);
        }
    }

    fn dropped(&self, by: By) {
        self.drops[match by {
            By::Event => 0,
            By::Write => 1,
        }]
        .increment(1);
    }
}

impl Resources {
    fn resource(&mut self, name: &str) -> &mut Resource {
        if !self.named.contains_key(name) {
            self.named.insert(name.into(), Resource::default());
        }
        self.named.entry(name.into()).or_default()
    }

    /// Forgets the marks that nothing depends on any more: there are never many more than answers.
    fn sweep(&mut self) {
        let marks: usize = self.named.values().map(|resource| 1 + resource.records.len()).sum();
        if marks < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        for resource in self.named.values_mut() {
            resource.records.retain(|_, mark| mark.strong_count() > 0);
        }
        self.named.retain(|_, resource| {
            !resource.records.is_empty() || resource.lists.strong_count() + resource.unnamed.strong_count() > 0
        });
        self.sweep_at = 2 * self.named.values().map(|resource| 1 + resource.records.len()).sum::<usize>();
    }
}

fn held(mark: &mut Weak<Mark>) -> Arc<Mark> {
    mark.upgrade().unwrap_or_else(|| {
        let new = Arc::default();
        *mark = Arc::downgrade(&new);
        new
    })
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
