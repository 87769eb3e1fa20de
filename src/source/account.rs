use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::backoff::{Backoff, around};
use super::fetch::Fetcher;
use super::gate::Gate;
use super::meter::{Blocked, Meter};
use super::status::StreamStatus;
use super::stream::Stream;
use super::track::{Orders, Track};
use super::{Pace, Shared, SourceConfig, SourceError};
use crate::config::DialectChoice;
use crate::event::ports::{Dialect, LedgerError, StreamBook, StreamRow, StreamState};
use crate::event::{StreamKey, StreamName};
use crate::sell::wire::{LIVE_STREAMS, Wanted};
use crate::sell::{SellDisposition, SellError, StreamListed, Vendor, singular};
use crate::telemetry::causes;
use crate::telemetry::metrics::{CHANNEL_CAPACITY, CHANNEL_DEPTH};

/// How long one look at the ledger may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a full backlog is said again.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// Polls all streams of an account until it is asked to stop, or until its shard has no recorder any more.
pub async fn run<B: StreamBook>(config: SourceConfig<B>) -> Result<(), SourceError> {
    let account = config.account.clone();
    let (status, stop) = (config.status.clone(), config.stop.clone());
    status.note(&account, |_| {});
    let ended = async {
        let mut rng = rng(config.seed, account.as_str());
        let Some(dialect) = find_dialect(&config, &mut rng).await? else { return Ok(()) };
        tracing::info!(dialect = dialect.as_str(), "the account is read");
        config.vendor.speaks(dialect);
        config.status.note(&account, |account| account.dialect = Some(dialect));
        Supervisor::new(config, dialect).run().await
    };
    let ended = ended.instrument(tracing::info_span!("source", account = %account)).await;
    if stop.is_cancelled() || ended.is_err() {
        status.forget(&account);
    }
    ended
}

/// The dialect: as configured, as found earlier, or asked for, as often as it takes. None when asked to stop.
async fn find_dialect<B: StreamBook>(
    config: &SourceConfig<B>,
    rng: &mut StdRng,
) -> Result<Option<Dialect>, SourceError> {
    if let DialectChoice::Fixed(dialect) = config.config.dialect {
        return Ok(Some(dialect));
    }
    if let Some(dialect) = config.book.dialect(&config.account).await? {
        return Ok(Some(dialect));
    }
    let mut backoff = Backoff::new(config.pace.backoff.0, config.pace.backoff.1);
    loop {
        let found = tokio::select! {
            biased;
            () = config.stop.cancelled() => return Ok(None),
            found = config.vendor.find_dialect() => found,
        };
        match found {
            Ok(dialect) => {
                config.status.note(&config.account, |account| account.trouble = None);
                config.book.keep_dialect(&config.account, dialect).await?;
                return Ok(Some(dialect));
            }
            Err(error) => {
                let why = causes(&error);
                let wait = wait_after(&error, &mut backoff, &config.pace, rng);
                tracing::error!(
                    error = why,
                    wait_seconds = wait.as_secs(),
                    "cannot tell which dialect the account speaks"
                );
                config
                    .status
                    .note(&config.account, |account| account.trouble = Some(format!("dialect unknown: {why}")));
                if !rest(&config.stop, &config.vendor, wait, config.pace.look).await {
                    return Ok(None);
                }
            }
        }
    }
}

/// Waits, or until the refused credential is replaced. Says whether to go on.
async fn rest(stop: &CancellationToken, vendor: &Vendor, wait: Duration, every: Duration) -> bool {
    let until = Instant::now() + wait;
    let refused = !vendor.credential_changed();
    while Instant::now() < until {
        let nap = every.min(until - Instant::now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(nap) => {}
        }
        if refused && vendor.credential_changed() {
            break;
        }
    }
    true
}

fn wait_after(error: &SellError, backoff: &mut Backoff, pace: &Pace, rng: &mut StdRng) -> Duration {
    match error.disposition() {
        SellDisposition::Retry(asked) => backoff.next(asked, rng),
        SellDisposition::Unauthorized => around(pace.unauthorized.0, rng),
        SellDisposition::Forbidden => around(pace.forbidden.0, rng),
        SellDisposition::Missing | SellDisposition::Gap | SellDisposition::Shrink => backoff.next(None, rng),
    }
}

/// Randomness of its own for each part, the same whenever the seed is.
fn rng(seed: u64, part: &str) -> StdRng {
    let mut hasher = DefaultHasher::new();
    (seed, part).hash(&mut hasher);
    StdRng::seed_from_u64(hasher.finish())
}

type Ended = (String, Result<(), SourceError>);

/// Owns the tasks of one account.
struct Supervisor<B> {
    shared: Arc<Shared<B>>,
    streams: BTreeMap<StreamName, Handle>,
    tasks: JoinSet<Ended>,
    backlog_full: watch::Receiver<bool>,
    said: Option<Instant>,
    seed: u64,
    stop: CancellationToken,
    depth: metrics::Gauge,
}

/// A stream that is polled.
struct Handle {
    row: watch::Sender<Option<StreamRow>>,
    meter: Arc<Meter>,
}

impl<B: StreamBook> Supervisor<B> {
    fn new(config: SourceConfig<B>, dialect: Dialect) -> Self {
        let depth = metrics::gauge!(CHANNEL_DEPTH, "channel" => "source");
        #[expect(clippy::cast_precision_loss, reason = "a bound of events is far below 2^52")]
        metrics::gauge!(CHANNEL_CAPACITY, "channel" => "source").set(config.room.max_events() as f64);
        let shared = Shared {
            wanted: Wanted::new(&config.config.events),
            gate: Gate::new(config.pace.unauthorized.0, config.pace.unauthorized.1),
            blocked: Blocked::new(),
            streams: 0.into(),
            deployment: config.deployment,
            account: config.account,
            config: config.config,
            dialect,
            vendor: config.vendor,
            book: config.book,
            pages: config.pages,
            witness: config.witness,
            room: config.room,
            clock: config.clock,
            status: config.status,
            pace: config.pace,
        };
        Self {
            shared: Arc::new(shared),
            streams: BTreeMap::new(),
            tasks: JoinSet::new(),
            backlog_full: config.backlog_full,
            said: None,
            seed: config.seed,
            // Ends what is owned here, whether the owner is asked to stop or stops by itself.
            stop: config.stop.child_token(),
            depth,
        }
    }

    async fn run(mut self) -> Result<(), SourceError> {
        let stop = self.stop.clone();
        // Whatever way this ends: its tasks end with it.
        let _ends = stop.clone().drop_guard();
        let (listed, mut listing) = watch::channel(Vec::new());
        self.start_known(&listed).await?;
        let mut look = tokio::time::interval(self.shared.pace.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = look.tick() => self.look().await?,
                changed = listing.changed() => {
                    let listed = listing.borrow_and_update().clone();
                    if changed.is_ok() {
                        self.start_listed(listed).await?;
                    }
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended)?;
        }
        Ok(())
    }

    /// Starts what needs no listing: in the live dialect all there is, else what the ledger has seen before.
    async fn start_known(&mut self, listed: &watch::Sender<Vec<StreamListed>>) -> Result<(), SourceError> {
        let unlisted = |stream: StreamName| StreamListed { resources: vec![singular(stream.as_str())], stream };
        let known: Vec<StreamListed> = match self.shared.dialect {
            Dialect::Live => {
                let all = LIVE_STREAMS.iter().copied().filter(|_| self.wants_all());
                let named = self.shared.config.streams.iter().map(String::as_str).filter(|name| *name != "*");
                all.chain(named).map(|name| unlisted(name.into())).collect()
            }
            Dialect::Reference => {
                let rows = self.shared.book.streams(&self.shared.account).await?;
                rows.into_iter().map(|row| unlisted(row.key.stream)).collect()
            }
        };
        if self.shared.dialect == Dialect::Reference {
            let (shared, listed, stop) = (self.shared.clone(), listed.clone(), self.stop.clone());
            let rng = rng(self.seed, "listing");
            let task = async move {
                list(&shared, &listed, &stop, rng).await;
                ("listing".to_owned(), Ok(()))
            };
            self.tasks.spawn(task.in_current_span());
        }
        self.start_listed(known).await
    }

    fn wants_all(&self) -> bool {
        self.shared.config.streams.iter().any(|name| name == "*")
    }

    async fn start_listed(&mut self, listed: Vec<StreamListed>) -> Result<(), SourceError> {
        for listed in listed {
            let wanted =
                self.wants_all() || self.shared.config.streams.iter().any(|name| name == listed.stream.as_str());
            if wanted && !self.streams.contains_key(&listed.stream) {
                self.start(listed).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, listed: StreamListed) -> Result<(), SourceError> {
        let shared = &self.shared;
        let key = StreamKey { account: shared.account.clone(), stream: listed.stream.clone() };
        let row = shared.open(&key).await?;
        let resources =
            if listed.resources.is_empty() { vec![singular(listed.stream.as_str())] } else { listed.resources };
        let meter = Arc::new(Meter::new(&key, shared.config.history, row.position_at, row.top));
        let (sender, rows) = watch::channel(None);
        let orders = Orders { rows, backlog_full: self.backlog_full.clone(), stop: self.stop.clone() };
        let (first, most) = shared.pace.backoff;
        let stream = Stream {
            fetcher: Fetcher::new(shared.clone(), key.clone(), resources),
            track: Track::new(shared.clone(), meter.clone(), row, orders),
            backoff: Backoff::new(first, most),
            rng: rng(self.seed, &key.to_string()),
            at_top: false,
            missed: false,
            shared: shared.clone(),
        };
        let name = key.to_string();
        let span = tracing::info_span!("stream", stream = %key.stream);
        self.tasks.spawn(async move { (name, stream.run().await) }.instrument(span));
        self.streams.insert(key.stream, Handle { row: sender, meter });
        self.shared.streams.store(self.streams.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Once a second, one query for all streams: what did an operator change, and how do lag and headroom stand.
    async fn look(&mut self) -> Result<(), SourceError> {
        let shared = &self.shared;
        match tokio::time::timeout(LOOK_TIMEOUT, shared.book.streams(&shared.account)).await {
            Ok(Ok(rows)) => {
                for row in rows {
                    if let Some(handle) = self.streams.get(&row.key.stream) {
                        handle.row.send_if_modified(|held| {
                            let same = |held: &StreamRow| held.position == row.position && held.state == row.state;
                            let news = !held.as_ref().is_some_and(same);
                            *held = Some(row);
                            news
                        });
                    }
                }
            }
            // The recorder meets the same outage and decides; until then the last rows stand.
            Ok(Err(error @ LedgerError::Unavailable { .. })) => {
                tracing::debug!(error = causes(&error), "cannot look at the streams");
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => tracing::debug!("looking at the streams takes too long"),
        }
        if !shared.gate.is_open() && shared.vendor.credential_changed() {
            shared.gate.try_now();
        }
        shared.vendor.budget().observe();
        #[expect(clippy::cast_precision_loss, reason = "a bound of events is far below 2^52")]
        self.depth.set(shared.room.depth() as f64);
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        let full = *self.backlog_full.borrow();
        let now = self.shared.clock.now();
        let mut least = self.shared.config.history;
        self.shared.status.note(&self.shared.account, |account| {
            account.backlog_full = full;
            for (name, handle) in &self.streams {
                let (top, lag, headroom) = handle.meter.tick(now);
                let ledgers = handle.row.borrow().as_ref().map(|row| row.state);
                let stream = account.streams.entry(name.clone()).or_insert_with(|| StreamStatus {
                    state: StreamState::Active,
                    detail: String::new(),
                    failing: None,
                    top,
                    lag,
                    headroom,
                });
                (stream.top, stream.lag, stream.headroom) = (top, lag, headroom);
                stream.state = ledgers.unwrap_or(stream.state);
                least = least.min(headroom);
            }
        });
        if !full {
            self.said = None;
        } else if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            let headroom = humantime::format_duration(Duration::from_secs(least.as_secs()));
            tracing::error!(%headroom, "nothing is polled: the ledger's backlog is full; the headroom is what is left of the source's history");
        }
    }

    fn ended(&self, ended: Result<Ended, JoinError>) -> Result<(), SourceError> {
        match ended {
            // Who stops all parts of a shard at once may end the recorder first.
            Ok(_) if self.stop.is_cancelled() => Ok(()),
            Ok((_, Err(error))) => Err(error),
            Ok((task, Ok(()))) => Err(SourceError::Task { task, why: "it was not asked to".to_owned() }),
            Err(error) => Err(SourceError::Task { task: "a stream".to_owned(), why: error.to_string() }),
        }
    }
}

/// Reads the listing of the reference dialect now and then, so that new streams appear without a restart.
async fn list<B: StreamBook>(
    shared: &Shared<B>,
    listed: &watch::Sender<Vec<StreamListed>>,
    stop: &CancellationToken,
    mut rng: StdRng,
) {
    let mut backoff = Backoff::new(shared.pace.backoff.0, shared.pace.backoff.1);
    let mut seen = false;
    loop {
        let told = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            told = shared.vendor.listing() => told,
        };
        let wait = match told {
            Ok(streams) => {
                backoff.reset();
                if !std::mem::replace(&mut seen, true) {
                    warn_of_unlisted(shared, &streams);
                }
                shared.status.note(&shared.account, |account| account.unlisted = None);
                listed.send_replace(streams);
                around(shared.pace.listing, &mut rng)
            }
            Err(error) => {
                let why = causes(&error);
                tracing::warn!(error = why, "cannot list the streams");
                shared.status.note(&shared.account, |account| account.unlisted = Some(why));
                wait_after(&error, &mut backoff, &shared.pace, &mut rng)
            }
        };
        if !rest(stop, &shared.vendor, wait, shared.pace.look).await {
            return;
        }
    }
}

fn warn_of_unlisted<B>(shared: &Shared<B>, listed: &[StreamListed]) {
    for name in shared.config.streams.iter().filter(|name| *name != "*") {
        if !listed.iter().any(|listed| listed.stream.as_str() == name) {
            tracing::warn!(stream = name, "a configured stream is not listed by the vendor");
        }
    }
}
