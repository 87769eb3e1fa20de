//! One lookup: from what is kept, from one that is under way, or from the vendor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::RngExt as _;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Lookups;
use super::marks::{Account, Standing};
use super::store::{self, Kept, Key};
use super::subject::{self, Subject};
use crate::sell::{Forward, Priority, SellError, Vendor};

/// Tries of a request that may be repeated.
const TRIES: u32 = 3;
/// Between two tries, at random up to this, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// An answer that is not whole by then is passed on as it comes, and shared with nobody.
const WHOLE_WITHIN: Duration = Duration::from_secs(5);
/// So many lookups of others are waited for before one is made.
const JOINS: u32 = 3;

/// How a lookup is made.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Its place in the budget.
    pub priority: Priority,
    /// It waits for its share of the budget this long.
    pub budget_wait: Duration,
    /// The oldest answer that will do; none for what is configured.
    pub max_age: Option<Duration>,
    /// Whether it must go to the vendor.
    pub past: bool,
    /// Whether its answer may be kept and shared.
    pub keep: bool,
    /// It must be answered by then, but for a body that is passed on.
    pub deadline: Instant,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was kept.
    Hit,
    /// The vendor was asked.
    Miss,
    /// The vendor was asked by another, at the same time.
    Shared,
    /// The vendor gave none; this one is older than it should be.
    Stale,
    /// It is not of a kind that is kept or shared.
    Passed,
}

impl Outcome {
    /// All of them, in their order.
    pub(super) const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Shared, Self::Stale, Self::Passed];

    /// As the metric's label says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Shared => "shared",
            Self::Stale => "stale",
            Self::Passed => "passed",
        }
    }
}

/// What the vendor says, now or before.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// All of its headers.
    pub headers: Arc<HeaderMap>,
    /// Its body.
    pub body: Body,
    /// Where it is from.
    pub outcome: Outcome,
    /// How long ago the vendor had answered.
    pub age: Duration,
}

/// A body.
#[derive(Debug)]
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// It is still on its way.
    Passing {
        /// What has come.
        first: Bytes,
        /// What is to come.
        rest: Response,
    },
}

/// Why there is no answer. What lies behind it has been logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The budget has nothing left for it.
    #[error("the account's budget of requests is used up but for what its streams need")]
    Throttled {
        /// How long.
        wait: Duration,
    },
    /// The vendor is out of reach.
    #[error("the vendor is out of reach")]
    Unreachable,
    /// It took too long.
    #[error("the vendor gave no answer in time")]
    Late,
    /// The account's credential cannot be used.
    #[error("the account's own credential cannot be used: `standpipe check` says why")]
    Credential,
}

/// Lookups that are under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Arc<Flight>>>);

#[derive(Debug)]
struct Flight {
    landing: watch::Receiver<Option<Landing>>,
    era: u64,
    standing: Standing,
}

#[derive(Clone, Debug)]
enum Landing {
    Answer(Arc<Kept>),
    Unanswered(Unanswered),
    /// It is not for others.
    Alone,
}

/// What the one who asks the vendor holds: those who wait hear of it, also when it is dropped.
struct Leading<'a> {
    flights: &'a Flights,
    key: Key,
    flight: Arc<Flight>,
    landing: watch::Sender<Option<Landing>>,
}

impl Leading<'_> {
    fn lands(self, landing: Landing) {
        self.landing.send_replace(Some(landing));
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

enum Turn<'a> {
    Join(watch::Receiver<Option<Landing>>),
    Lead(Option<Leading<'a>>, Option<u64>, Standing),
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a lookup that nothing has outdated since it began; else begins one, which others may join in an era alone.
    fn turn(&self, key: Key, account: &Account, subjects: &[Subject], past: bool) -> Turn<'_> {
        let mut flights = self.lock();
        let era = account.era();
        if let Some(flight) = flights.get(&key).filter(|_| !past)
            && era == Some(flight.era)
            && flight.standing.holds()
        {
            return Turn::Join(flight.landing.clone());
        }
        let standing = account.standing(subjects);
        let leading = era.map(|era| {
            let (sender, landing) = watch::channel(None);
            let flight = Arc::new(Flight { landing, era, standing: standing.clone() });
            flights.insert(key, flight.clone());
            Leading { flights: self, key, flight, landing: sender }
        });
        Turn::Lead(leading, era, standing)
    }
}

impl Answer {
    fn kept(kept: &Kept, outcome: Outcome) -> Self {
        Self {
            status: kept.status,
            headers: Arc::clone(&kept.headers),
            body: Body::Whole(kept.body.clone()),
            outcome,
            age: kept.age(),
        }
    }

    fn passing(response: Response, first: Bytes, outcome: Outcome) -> Self {
        let (status, headers) = (response.status(), Arc::new(response.headers().clone()));
        Self { status, headers, body: Body::Passing { first, rest: response }, outcome, age: Duration::ZERO }
    }
}

impl Lookups {
    /// Asks what `forward` asks, and gives the vendor's answer, whatever its status. Safe to cancel: who waits for the
    /// same goes on by itself.
    pub async fn ask(&self, vendor: &Vendor, forward: &Forward, how: &How) -> Result<Answer, Unanswered> {
        let account = self.0.accounts.of(vendor.account());
        let told = match subject::of(forward).filter(|_| how.keep) {
            Some(subjects) => self.ask_once(vendor, forward, how, (&account, &subjects)).await,
            None => tries(vendor, forward, how)
                .await
                .map(|response| Answer::passing(response, Bytes::new(), Outcome::Passed)),
        };
        account.asked(told.as_ref().ok().map(|answer| answer.outcome));
        told
    }

    async fn ask_once(
        &self,
        vendor: &Vendor,
        forward: &Forward,
        how: &How,
        (account, subjects): (&Account, &[Subject]),
    ) -> Result<Answer, Unanswered> {
        let key = store::key(vendor.account(), forward);
        let max_age = how.max_age.unwrap_or(self.0.ttl);
        for _ in 0..JOINS {
            let kept = self.0.store.get(&key).filter(|kept| kept.age() < max_age && !how.past);
            if let Some(kept) = kept.filter(|kept| kept.is_fresh(account)) {
                return Ok(Answer::kept(&kept, Outcome::Hit));
            }
            match self.0.flights.turn(key, account, subjects, how.past) {
                Turn::Lead(leading, era, standing) => {
                    let told = self.lead(vendor, forward, how, (key, leading, era, standing)).await;
                    return self.or_stale(&key, how, told);
                }
                Turn::Join(mut landing) => {
                    let landed = tokio::time::timeout_at(how.deadline, landing.wait_for(Option::is_some)).await;
                    let landed = match landed {
                        Ok(Ok(landed)) => landed.clone(),
                        // Who asked has gone away.
                        Ok(Err(_)) => None,
                        Err(_) => Some(Landing::Unanswered(Unanswered::Late)),
                    };
                    match landed {
                        Some(Landing::Answer(kept)) => {
                            return self.or_stale(&key, how, Ok(Answer::kept(&kept, Outcome::Shared)));
                        }
                        Some(Landing::Unanswered(why)) => return self.or_stale(&key, how, Err(why)),
                        Some(Landing::Alone) => break,
                        None => {}
                    }
                }
            }
        }
        let (era, standing) = (account.era(), account.standing(subjects));
        let told = self.lead(vendor, forward, how, (key, None, era, standing)).await;
        self.or_stale(&key, how, told)
    }

    async fn lead(
        &self,
        vendor: &Vendor,
        forward: &Forward,
        how: &How,
        (key, leading, era, standing): (Key, Option<Leading<'_>>, Option<u64>, Standing),
    ) -> Result<Answer, Unanswered> {
        let land = |landing: Landing| {
            if let Some(leading) = leading {
                leading.lands(landing);
            }
        };
        let asked = Instant::now();
        let told = async {
            let response = tries(vendor, forward, how).await?;
            whole(response, store::MOST, how.deadline).await
        };
        match told.await {
            Ok(Read::Whole(status, headers, body)) => {
                let kept =
                    Arc::new(Kept::new((status, headers, body), (asked, Instant::now()), era, standing.of_answer()));
                if era.is_some() || !self.0.stale_if_error.is_zero() {
                    self.0.store.keep(key, kept.clone());
                }
                let answer = Answer::kept(&kept, Outcome::Miss);
                land(Landing::Answer(kept));
                Ok(answer)
            }
            Ok(Read::Passing(response, first)) => {
                land(Landing::Alone);
                Ok(Answer::passing(response, first, Outcome::Passed))
            }
            Err(why) => {
                land(Landing::Unanswered(why));
                Err(why)
            }
        }
    }

    /// An older answer where the vendor gives none, if that is allowed.
    fn or_stale(&self, key: &Key, how: &How, told: Result<Answer, Unanswered>) -> Result<Answer, Unanswered> {
        let failed = match &told {
            Ok(answer) => answer.status.is_server_error(),
            Err(why) => matches!(why, Unanswered::Unreachable | Unanswered::Late),
        };
        // Who states an age means it.
        if !failed || how.past || how.max_age.is_some() || self.0.stale_if_error.is_zero() {
            return told;
        }
        let kept = self.0.store.get(key).filter(|kept| kept.age() <= self.0.ttl + self.0.stale_if_error);
        kept.map_or(told, |kept| Ok(Answer::kept(&kept, Outcome::Stale)))
    }
}

enum Read {
    Whole(StatusCode, HeaderMap, Bytes),
    Passing(Response, Bytes),
}

/// Reads an answer that may be shared, if it is here soon and not too long.
async fn whole(mut response: Response, most: usize, deadline: Instant) -> Result<Read, Unanswered> {
    let length = response.content_length().unwrap_or(0);
    if !Kept::may_be_shared(response.headers()) || length > most as u64 {
        return Ok(Read::Passing(response, Bytes::new()));
    }
    let until = deadline.min(Instant::now() + WHOLE_WITHIN);
    let mut body = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    loop {
        match tokio::time::timeout_at(until, response.chunk()).await {
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return Ok(Read::Whole(response.status(), response.headers().clone(), body.freeze())),
            Ok(Err(error)) => {
                let error = error.without_url();
                tracing::warn!(error = &error as &dyn std::error::Error, "an answer of the vendor broke off");
                return Err(Unanswered::Unreachable);
            }
            Err(_) => return Ok(Read::Passing(response, body.freeze())),
        }
        if body.len() > most {
            return Ok(Read::Passing(response, body.freeze()));
        }
    }
}

/// Asks the vendor, again where that is safe and may help.
async fn tries(vendor: &Vendor, forward: &Forward, how: &How) -> Result<Response, Unanswered> {
    let told = tokio::time::timeout_at(how.deadline, async {
        let repeats =
            matches!(forward.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS);
        let mut pause = FIRST_PAUSE;
        let mut left = if repeats { TRIES } else { 1 };
        loop {
            left -= 1;
            let budget = vendor.budget();
            let Ok(slot) = tokio::time::timeout(how.budget_wait, budget.take(how.priority)).await else {
                return Err(Unanswered::Throttled { wait: budget.full_for(how.priority).max(Duration::from_secs(1)) });
            };
            let told = vendor.forward(forward, how.priority, slot).await;
            let again = match &told {
                Ok(answer) => matches!(answer.status().as_u16(), 502..=504),
                Err(error) => matches!(error, SellError::Unreachable { .. }),
            };
            if !again || left == 0 {
                return told.map_err(|error| {
                    let told = &error as &dyn std::error::Error;
                    tracing::warn!(account = %vendor.account(), error = told, "a lookup got no answer from the vendor");
                    match error {
                        SellError::Unreachable { .. } | SellError::NoAccessToken { .. } => Unanswered::Unreachable,
                        _ => Unanswered::Credential,
                    }
                });
            }
            tokio::time::sleep(pause.mul_f64(crate::chance::rng().random_range(0.0..=1.0))).await;
            pause *= 2;
        }
    });
    told.await.unwrap_or(Err(Unanswered::Late))
}
