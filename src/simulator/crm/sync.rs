//! Sync: each device is given what it has not acknowledged yet, in its freshest state (sell-api.md R6, L6).
//!
//! What a device has is a revision a record. A session's queue is a list of records, made when it starts; each is read
//! when it is given out. One book serves both dialects.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::super::catalog;
use super::super::company::{Action, Kind, Record};
use super::super::dice::Dice;
use super::super::encode;
use super::super::options::Dialect;
use super::super::world::World;

/// The most sessions and devices that are remembered; the oldest is forgotten.
const MOST: usize = 100;
/// The dice's purpose.
const SESSIONS: u64 = 5;

/// What devices have.
#[derive(Debug)]
pub(in super::super) struct Book {
    devices: VecDeque<Device>,
    sessions: VecDeque<Session>,
    dice: Dice,
}

#[derive(Debug)]
struct Device {
    id: String,
    /// The revision of each record that it acknowledged.
    has: HashMap<(Kind, u64), u64>,
}

#[derive(Debug)]
pub(in super::super) struct Session {
    pub id: String,
    device: String,
    pub queue: VecDeque<(Kind, u64)>,
}

/// One record for a device.
#[derive(Debug)]
pub(in super::super) struct Item {
    pub resource: &'static str,
    pub event: Action,
    pub ack_key: String,
    pub revision: u64,
    /// As Core gives it; where it is deleted its id alone.
    pub data: Vec<u8>,
}

/// The kinds that a dialect synchronizes.
fn kinds(dialect: Dialect) -> impl Iterator<Item = Kind> {
    let apart = |kind: &Kind| !matches!(kind, Kind::App | Kind::LeadConversion | Kind::AssociatedContact);
    Kind::ALL.into_iter().filter(move |kind| apart(kind) && catalog::of(dialect, *kind).is_some())
}

impl Book {
    pub fn new(seed: u64) -> Self {
        Self { devices: VecDeque::new(), sessions: VecDeque::new(), dice: Dice::new(seed, SESSIONS) }
    }

    fn has(&self, device: &str, of: (Kind, u64)) -> Option<u64> {
        let device = self.devices.iter().find(|known| known.id == device)?;
        device.has.get(&of).copied()
    }

    /// What a device has not acknowledged.
    fn wanting(&self, world: &World, dialect: Dialect, device: &str) -> VecDeque<(Kind, u64)> {
        let of_kind = |kind: Kind| {
            let records = world.told(kind).into_iter();
            let wanting = records.filter(move |record| self.has(device, (kind, record.id)) != Some(record.sequence));
            wanting.map(move |record| (kind, record.id))
        };
        let mut queue: VecDeque<(Kind, u64)> = kinds(dialect).flat_map(of_kind).collect();
        let known = self.devices.iter().find(|known| known.id == device);
        let mut gone: Vec<(Kind, u64)> = known
            .into_iter()
            .flat_map(|device| device.has.keys().copied())
            .filter(|of| world.deleted.contains(*of) && catalog::of(dialect, of.0).is_some())
            .collect();
        gone.sort_unstable();
        queue.extend(gone);
        queue
    }

    /// A new session for a device; none where there is nothing for it and `or_none` is asked for.
    pub fn start(&mut self, world: &World, dialect: Dialect, device: &str, or_none: bool) -> Option<&Session> {
        if self.devices.iter().all(|known| known.id != device) {
            if self.devices.len() == MOST {
                self.devices.pop_front();
            }
            self.devices.push_back(Device { id: device.to_owned(), has: HashMap::new() });
        }
        let queue = self.wanting(world, dialect, device);
        if queue.is_empty() && or_none {
            return None;
        }
        if self.sessions.len() == MOST {
            self.sessions.pop_front();
        }
        let id = u128::from(self.dice.number()) << 64 | u128::from(self.dice.number());
        let id = uuid::Uuid::from_u128(id).hyphenated().to_string();
        self.sessions.push_back(Session { id, device: device.to_owned(), queue });
        self.sessions.back()
    }

    /// The device of a session.
    pub fn device(&self, session: &str) -> Option<&str> {
        self.sessions.iter().find(|known| known.id == session).map(|session| session.device.as_str())
    }

    /// Starts a session's queue anew with what is not acknowledged.
    pub fn refill(&mut self, world: &World, dialect: Dialect, session: &str) {
        let Some(device) = self.device(session).map(ToOwned::to_owned) else { return };
        let queue = self.wanting(world, dialect, &device);
        if let Some(session) = self.sessions.iter_mut().find(|known| known.id == session) {
            session.queue = queue;
        }
    }

    /// The next records of a session, at most so many, with how many are left; none where there is no such session.
    pub fn next(&mut self, world: &World, dialect: Dialect, session: &str, most: usize) -> Option<(Vec<Item>, usize)> {
        let at = self.sessions.iter().position(|known| known.id == session)?;
        let device = self.sessions[at].device.clone();
        let mut items = Vec::new();
        while items.len() < most {
            let Some(of) = self.sessions[at].queue.pop_front() else { break };
            items.extend(self.item(world, dialect, &device, of));
        }
        Some((items, self.sessions[at].queue.len()))
    }

    fn item(&self, world: &World, dialect: Dialect, device: &str, of: (Kind, u64)) -> Option<Item> {
        let (kind, id) = of;
        let resource = catalog::of(dialect, kind)?;
        let has = self.has(device, of);
        let (event, revision, data) = match world.told_one(kind, id) {
            Some(Record { sequence, .. }) if has == Some(*sequence) => return None,
            Some(record) => {
                let mut data = Vec::new();
                encode::core(dialect, resource, record, world.company.users(), &mut data);
                let event = if has.is_some() { Action::Updated } else { Action::Created };
                (event, record.sequence, data)
            }
            None => {
                let revision = world.deleted.revision(of).filter(|_| has.is_some())?;
                (Action::Deleted, revision, format!(r#"{{"id":{id}}}"#).into_bytes())
            }
        };
        let ack_key = format!("{}-{id}-{revision}", camel(resource.name));
        Some(Item { resource: resource.name, event, ack_key, revision, data })
    }

    /// Notes what a device has. Keys that nobody gave say nothing.
    pub fn acknowledge(&mut self, world: &World, dialect: Dialect, device: &str, keys: &[String]) {
        let Some(device) = self.devices.iter_mut().find(|known| known.id == device) else { return };
        for key in keys {
            let mut parts = key.splitn(3, '-');
            let (name, id, revision) = (parts.next(), parts.next(), parts.next());
            let (Some(name), Some(id), Some(revision)) =
                (name, id.and_then(|id| id.parse().ok()), revision.and_then(|revision| revision.parse().ok()))
            else {
                continue;
            };
            let named = |kind: &Kind| catalog::of(dialect, *kind).is_some_and(|resource| camel(resource.name) == name);
            for kind in kinds(dialect).filter(named) {
                if world.told_one(kind, id).is_some() {
                    device.has.insert((kind, id), revision);
                } else if world.deleted.revision((kind, id)).is_some_and(|deleted| deleted <= revision) {
                    device.has.remove(&(kind, id));
                }
            }
        }
    }
}

/// `LineItem` for `line_item`
fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
        })
        .collect()
}

/// What was deleted, with the revision at which it was: the newest of it.
#[derive(Debug, Default)]
pub(in super::super) struct Deleted {
    revisions: BTreeMap<(Kind, u64), u64>,
    order: VecDeque<(Kind, u64)>,
}

impl Deleted {
    /// More than this is not remembered.
    const MOST: usize = 50_000;

    pub fn note(&mut self, record: &Record) {
        let of = (record.kind(), record.id);
        if self.revisions.insert(of, record.sequence).is_none() {
            self.order.push_back(of);
        }
        while self.order.len() > Self::MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.revisions.remove(&oldest);
            }
        }
    }

    fn contains(&self, of: (Kind, u64)) -> bool {
        self.revisions.contains_key(&of)
    }

    fn revision(&self, of: (Kind, u64)) -> Option<u64> {
        self.revisions.get(&of).copied()
    }
}
