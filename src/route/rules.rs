use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::enrich::{self, Enrich};
use super::error::{Problem, RuleError};
use super::filter::{Filter, NamedType};
use super::looked_up::LookedUp;
use super::shape::{Uses, Variable, resources, samples};
use super::template::{RenderError, Template, topic_problem};
use crate::config::{SinkConfig, SinkKind};
use crate::event::ports::{Address, Decision, Dialect, Route, RouteError};
use crate::event::{AccountName, EventType, Found, LookUps, RecordKey, Recorded, SinkName};

/// Longest key that is rendered, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;
/// Longest header value that is rendered, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// The stack on which rules are compiled. Parsers go down some frames for each bracket and each link of a chain, and none
/// of them is bounded by what a thread of a runtime has; a rule's length bounds all. What is not touched takes no memory.
const PARSERS_STACK: usize = 64 << 20;
/// Most pairs of account and type whose verdict is remembered.
const MAX_KINDS: usize = 4096;

/// The compiled rules of one sink: see [`Route`].
#[derive(Debug)]
pub struct Rules {
    sink: SinkName,
    filter: Option<Filter>,
    filter_text: String,
    topic: Option<Template>,
    key: Option<Template>,
    headers: Vec<(Arc<str>, Template)>,
    enrich: Vec<Enrich>,
    fingerprint: Option<String>,
    kinds: RwLock<HashMap<AccountName, HashMap<EventType, Kind>>>,
    kinds_left: std::sync::atomic::AtomicUsize,
}

/// What is the same for all events of one account and type.
#[derive(Clone, Debug, Default)]
struct Kind {
    accepted: Option<bool>,
    topic: Option<Arc<str>>,
}

impl Rules {
    /// Compiles the rules of a sink and tries them on sample events of the types that `dialects` emit (none given: of
    /// all). All errors at once.
    pub fn compile(sink: &SinkName, config: &SinkConfig, dialects: &[Dialect]) -> Result<Self, Vec<RuleError>> {
        on_a_deep_stack(|| Self::compiled(sink, config, dialects))
    }

    fn compiled(sink: &SinkName, config: &SinkConfig, dialects: &[Dialect]) -> Result<Self, Vec<RuleError>> {
        let samples = samples_of(dialects);
        let mut errors = Vec::new();
        let names: Vec<LookedUp> = config.enrich.iter().map(LookedUp::of).collect();
        let enrich =
            Enrich::compile(sink, &config.enrich).map_err(|problems| errors.extend(problems)).unwrap_or_default();
        let mut report = |key: &str, text: &str, problems: Vec<Problem>| {
            errors.extend(problems.into_iter().map(|problem| problem.of(sink, key, text)));
        };

        let filter_text = config.filter.clone().unwrap_or_default();
        let filter = config.filter.as_deref().and_then(|text| {
            Filter::compile(text, &samples, &names).map_err(|problems| report("filter", text, problems)).ok()
        });
        let taken = taken(filter.as_ref(), &samples);
        let mut template = |key: &str, text: &str, verify: fn(&str) -> Option<String>| {
            let compiled = Template::compile(text, &names).and_then(|template| {
                try_on_samples(&template, text, &taken, verify)?;
                Ok(template)
            });
            compiled.map_err(|problems| report(key, text, problems)).ok()
        };
        let (topic, key) = match &config.kind {
            SinkKind::Kafka(kafka) => (
                template("topic", &kafka.topic, |topic| topic_problem(topic).map(Into::into)),
                template("key", &kafka.key, key_problem),
            ),
            SinkKind::Webhook(_) => (None, None),
        };
        let mut headers = Vec::new();
        for (name, text) in &config.headers {
            let key = format!("headers.{name}");
            let compiled = template(&key, text, header_value_problem);
            headers.extend(compiled.map(|compiled| (Arc::from(name.as_str()), compiled)));
        }
        for (name, text) in &config.headers {
            if let Some(problem) = header_name_problem(name) {
                let key = format!("headers.{name}");
                errors.push(Problem::new(problem, 0..0).of(sink, &key, text));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            sink: sink.clone(),
            filter,
            filter_text,
            topic,
            key,
            fingerprint: None,
            headers,
            enrich,
            kinds: RwLock::default(),
            kinds_left: MAX_KINDS.into(),
        }
        .named(config))
    }

    fn named(self, config: &SinkConfig) -> Self {
        let looks_up = self.uses().any(|uses| uses.has(Variable::Enrichment));
        Self { fingerprint: Some(fingerprint(config, looks_up)), ..self }
    }

    /// What each of its texts uses.
    fn uses(&self) -> impl Iterator<Item = Uses> {
        let templates =
            [&self.topic, &self.key].into_iter().flatten().chain(self.headers.iter().map(|(_, value)| value));
        self.filter.iter().map(Filter::uses).chain(templates.map(Template::uses))
    }

    /// A filter alone, for who looks at events and delivers none: `who` names that one in errors. All errors at once.
    pub fn of_filter(who: &SinkName, filter: &str) -> Result<Self, Vec<RuleError>> {
        let compiled = on_a_deep_stack(|| Filter::compile(filter, &samples_of(&[]), &[])).map_err(|problems| {
            problems.into_iter().map(|problem| problem.of(who, "filter", filter)).collect::<Vec<_>>()
        })?;
        Ok(Self {
            sink: who.clone(),
            filter: Some(compiled),
            filter_text: filter.to_owned(),
            topic: None,
            key: None,
            headers: Vec::new(),
            enrich: Vec::new(),
            fingerprint: None,
            kinds: RwLock::default(),
            kinds_left: MAX_KINDS.into(),
        })
    }

    /// What `check` warns of: types and resources that the filter names and that no account's dialect emits.
    #[must_use]
    pub fn warnings(&self, accounts: &[(AccountName, Dialect)]) -> Vec<String> {
        let Some(filter) = &self.filter else { return Vec::new() };
        let mut warnings = Vec::new();
        for (named, at) in filter.named_types() {
            let (what, name) = match &named {
                NamedType::Type(name) => ("type", name.as_str()),
                NamedType::Resource(name) => ("resource", name.as_str()),
            };
            let hints: Option<Vec<String>> = accounts
                .iter()
                .map(|(account, dialect)| never_emitted(*dialect, name).map(|hint| format!("{account}: {hint}")))
                .collect();
            if let Some(hints) = hints.filter(|hints| !hints.is_empty()) {
                let message = format!("no account emits the {what} `{name}` ({})", hints.join("; "));
                warnings.push(Problem::new(message, at).of(&self.sink, "filter", &self.filter_text).to_string());
            }
        }
        warnings
    }

    fn accepts(&self, event: &Recorded) -> Result<bool, RouteError> {
        let Some(filter) = &self.filter else { return Ok(true) };
        if !filter.uses().only_the_kind() {
            return filter.accepts(event).map_err(|why| failed("filter", why));
        }
        if let Some(accepted) = self.of_kind(event).and_then(|kind| kind.accepted) {
            return Ok(accepted);
        }
        let accepted = filter.accepts(event).map_err(|why| failed("filter", why))?;
        self.remember(event, |kind| kind.accepted = Some(accepted));
        Ok(accepted)
    }

    fn topic(&self, event: &Recorded) -> Result<Arc<str>, RouteError> {
        let Some(template) = &self.topic else { return Ok(Arc::default()) };
        let same_for_kind = template.uses().only_the_kind();
        if same_for_kind && let Some(topic) = self.of_kind(event).and_then(|kind| kind.topic) {
            return Ok(topic);
        }
        let topic = template.render(event).map_err(|error| failed("topic", error.message))?;
        if let Some(problem) = topic_problem(&topic) {
            return Err(failed("topic", problem.into()));
        }
        let topic: Arc<str> = topic.into();
        if same_for_kind {
            self.remember(event, |kind| kind.topic = Some(Arc::clone(&topic)));
        }
        Ok(topic)
    }

    /// Whether the filter can only be asked when everything is looked up.
    fn filters_late(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.uses().has(Variable::Enrichment))
    }

    /// Where the event goes, without its headers.
    fn place(&self, event: &Recorded) -> Result<Address, RouteError> {
        let key = match &self.key {
            Some(template) => checked("key", template.render(event), key_problem)?,
            None => String::new(),
        };
        Ok(Address { topic: self.topic(event)?, key, headers: Vec::new() })
    }

    /// Where an event goes whose place is known, or is what its rules say.
    fn address(&self, event: &Recorded, place: Option<&Address>) -> Result<Address, RouteError> {
        let place = place.cloned().map_or_else(|| self.place(event), Ok)?;
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, template) in &self.headers {
            let what = format!("header {name}");
            headers.push((Arc::clone(name), checked(&what, template.render(event), header_value_problem)?));
        }
        Ok(Address { headers, ..place })
    }

    /// What is decided without a look at the event's content.
    fn at_once(&self, event: &Recorded) -> Option<Decision> {
        match &event.replay {
            Some(replay) if replay.sink != self.sink => Some(Decision::Filtered),
            _ if event.is_control() => Some(Decision::Deliver(Address::default())),
            _ => None,
        }
    }

    /// What must be looked up before the event can be delivered.
    fn lookups(&self, event: &Recorded) -> Result<Option<LookUps>, RouteError> {
        let wanted = self.enrich.iter().map(|enrich| enrich.wanted(event)).collect::<Result<Vec<_>, _>>()?;
        let wanted: Vec<_> = wanted.into_iter().flatten().collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let placed = [&self.topic, &self.key].into_iter().flatten().all(|it| !it.uses().has(Variable::Enrichment));
        let is_certain = event.replay.is_some() || !self.filters_late();
        let address = if placed && is_certain { Some(self.place(event)?) } else { None };
        Ok(Some(LookUps { wanted, address }))
    }

    /// Filter, place and headers of an event of which nothing is to be looked up any more.
    fn decide_all(&self, event: &Recorded) -> Result<Decision, RouteError> {
        if let Some(decision) = self.at_once(event) {
            return Ok(decision);
        }
        // A replay was asked for by name, so no filter can be against it.
        if event.replay.is_none() && !self.accepts(event)? {
            return Ok(Decision::Filtered);
        }
        Ok(Decision::Deliver(self.address(event, None)?))
    }

    fn of_kind(&self, event: &Recorded) -> Option<Kind> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&event.account)?.get(&event.event_type).cloned()
    }

    fn remember(&self, event: &Recorded, note: impl FnOnce(&mut Kind)) {
        use std::sync::atomic::Ordering::Relaxed;
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        let of_account = kinds.entry(event.account.clone()).or_default();
        if let Some(kind) = of_account.get_mut(&event.event_type) {
            note(kind);
        } else if self.kinds_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            note(of_account.entry(event.event_type.clone()).or_default());
        }
    }
}

impl Route for Rules {
    fn decide(&self, event: &Recorded) -> Result<Decision, RouteError> {
        if let Some(decision) = self.at_once(event) {
            return Ok(decision);
        }
        if self.enrich.is_empty() {
            return self.decide_all(event);
        }
        // Before anything is looked up for an event that the sink does not take. A replay was asked for by name.
        if event.replay.is_none() {
            let refused = match &self.filter {
                Some(filter) if self.filters_late() => filter.refuses_before_lookups(event),
                _ => !self.accepts(event)?,
            };
            if refused {
                return Ok(Decision::Filtered);
            }
        }
        match self.lookups(event)? {
            Some(lookups) => Ok(Decision::LookUp(Box::new(lookups))),
            None => self.decide_all(event),
        }
    }

    fn looks_up(&self) -> bool {
        !self.enrich.is_empty()
    }

    fn complete(
        &self,
        event: &Recorded,
        lookups: &LookUps,
        found: &dyn Fn(&RecordKey) -> Option<Found>,
        now: OffsetDateTime,
    ) -> Recorded {
        enrich::complete(&self.enrich, event, lookups, found, now)
    }

    fn decide_completed(&self, event: &Recorded, lookups: &LookUps) -> Result<Decision, RouteError> {
        match &lookups.address {
            // Taken for sure, and its place hangs on nothing that was found: both were decided before.
            Some(place) => Ok(Decision::Deliver(self.address(event, Some(place))?)),
            None => self.decide_all(event),
        }
    }

    fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }
}

fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rules".to_owned()).stack_size(PARSERS_STACK);
        let joined = thread.spawn_scoped(scope, work).expect("a thread can be started").join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Samples of what these dialects emit; of all where none is given.
fn samples_of(dialects: &[Dialect]) -> Vec<Recorded> {
    let dialects = if dialects.is_empty() { &[Dialect::Reference, Dialect::Live] } else { dialects };
    dialects.iter().flat_map(|dialect| samples(*dialect)).collect()
}

/// The first half of SHA-256, in hex, over the texts that decide whether and where an event goes, each with its length
/// before it. What is looked up decides where a rule asks for it.
fn fingerprint(config: &SinkConfig, looks_up: bool) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(config.filter.as_deref().unwrap_or_default());
    if let SinkKind::Kafka(kafka) = &config.kind {
        add(&kafka.topic);
        add(&kafka.key);
    }
    for (name, text) in &config.headers {
        add(name);
        add(text);
    }
    for enrich in config.enrich.iter().filter(|_| looks_up) {
        add(&enrich.name);
        add(&enrich.lookup);
        add(&enrich.id);
    }
    hash.finalize().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
        text
    })
}

fn checked(
    what: &str,
    rendered: Result<String, RenderError>,
    verify: fn(&str) -> Option<String>,
) -> Result<String, RouteError> {
    let text = rendered.map_err(|error| failed(what, error.message))?;
    match verify(&text) {
        Some(problem) => Err(failed(what, problem)),
        None => Ok(text),
    }
}

fn failed(what: &str, why: String) -> RouteError {
    RouteError { what: what.to_owned(), why }
}

/// The samples that the filter takes; all of them where it takes none for sure.
fn taken<'s>(filter: Option<&Filter>, samples: &'s [Recorded]) -> Vec<&'s Recorded> {
    let taken = |sample: &&Recorded| filter.is_none_or(|filter| filter.accepts(sample).unwrap_or(false));
    let sure: Vec<&Recorded> = samples.iter().filter(taken).collect();
    if sure.is_empty() { samples.iter().collect() } else { sure }
}

/// Refuses a template that no sample event can be rendered by, for a reason that does not lie in the record's own
/// fields (those differ from account to account).
fn try_on_samples(
    template: &Template,
    text: &str,
    samples: &[&Recorded],
    verify: fn(&str) -> Option<String>,
) -> Result<(), Vec<Problem>> {
    let mut first = None;
    for sample in samples {
        let problem = match template.try_on(sample) {
            Ok(None) => return Ok(()),
            Ok(Some(rendered)) => match verify(&rendered) {
                None => return Ok(()),
                Some(problem) => Problem::new(problem, 0..text.len()),
            },
            Err(error) => Problem::new(
                format!("it cannot be rendered for a {} event: {}", sample.event_type, error.message),
                error.at.unwrap_or(0..text.len()),
            ),
        };
        first = first.or(Some(problem));
    }
    first.map_or(Ok(()), |problem| Err(vec![problem]))
}

fn key_problem(key: &str) -> Option<String> {
    (key.len() > MAX_KEY_BYTES).then(|| format!("the key is longer than {MAX_KEY_BYTES} bytes"))
}

fn header_value_problem(value: &str) -> Option<String> {
    if value.len() > MAX_HEADER_BYTES {
        return Some(format!("the value is longer than {MAX_HEADER_BYTES} bytes"));
    }
    value.chars().any(|c| c.is_control() && c != '\t').then(|| "the value has control characters".to_owned())
}

/// Headers that standpipe and HTTP itself set.
fn header_name_problem(name: &str) -> Option<String> {
    const RESERVED: [&str; 11] = [
        "content-type",
        "content-length",
        "content-encoding",
        "traceparent",
        "tracestate",
        "host",
        "connection",
        "transfer-encoding",
        "te",
        "upgrade",
        "expect",
    ];
    let lower = name.to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Some("a header's name is 1 to 128 letters, digits and any of !#$%&'*+-.^_`|~".to_owned());
    }
    let ours = lower.starts_with("standpipe-") || lower.starts_with("webhook-") || RESERVED.contains(&lower.as_str());
    ours.then(|| format!("the header `{name}` is set by standpipe itself"))
}

/// Why a dialect never emits events of a type (`deal.updated`), of a pattern (`deal.*`) or of a resource (`deal`), with
/// what to write instead; none where it does, or may.
#[must_use]
pub fn never_emitted(dialect: Dialect, pattern: &str) -> Option<String> {
    let (resource, action) = pattern.split_once('.').unwrap_or((pattern, ""));
    if resource.contains('*') || resource == "standpipe" {
        return None;
    }
    let known = resources(dialect);
    if known.contains(&resource) {
        let known_action = ["", "*", "created", "updated", "deleted", "read"];
        return (!known_action.contains(&action)).then(|| "actions are created, updated and deleted".to_owned());
    }
    Some(match (dialect, resource) {
        (Dialect::Live, "organization") => {
            "the live dialect has organizations as contacts with `is_organization`".to_owned()
        }
        (Dialect::Live, "activity") => {
            "the live dialect has activities apart: call, task, note, visit, appointment".to_owned()
        }
        _ => match super::shape::nearest(resource, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the {} dialect is not known to have it", dialect.as_str()),
        },
    })
}
