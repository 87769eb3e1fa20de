//! The vendor and the receiver, in memory behind the program's own HTTP clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::http::Response as Parts;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use reqwest::{Client, Request, Response};
use standpipe::event::{Seq, Shard};
use standpipe::http::{Server, Transport};
use standpipe::ledger::model::Lost;

use crate::oracle::Oracle;
use crate::world::{Net, World, pause};

pub const ACCOUNTS: [&str; 2] = ["acme", "bolt"];
pub const STREAMS: [&str; 2] = ["contacts", "deals"];
/// Records of a stream.
pub const RECORDS: usize = 4;

/// An account and one of its streams.
pub type Source = (&'static str, &'static str);

/// How many events each stream holds.
#[derive(Debug, Default)]
pub struct Vendor {
    emitted: Mutex<BTreeMap<Source, usize>>,
    asked: Mutex<usize>,
}

impl Vendor {
    pub fn emit(&self, source: Source, count: usize) {
        *self.emitted.lock().unwrap().entry(source).or_default() += count;
    }

    pub fn emitted(&self, source: Source) -> usize {
        self.emitted.lock().unwrap().get(&source).copied().unwrap_or(0)
    }
}

/// The stream of an event of the vendor's, and its number there; none of what is ours.
pub fn number(id: &str) -> Option<(Source, usize)> {
    let (of, number) = id.rsplit_once('-')?;
    let (account, resource) = of.split_once('.')?;
    let account = ACCOUNTS.into_iter().find(|known| *known == account)?;
    let stream = STREAMS.into_iter().find(|stream| stream.trim_end_matches('s') == resource)?;
    Some(((account, stream), number.parse().ok()?))
}

/// The id of an event.
pub fn id((account, stream): Source, number: usize) -> String {
    format!("{account}.{}-{number}", stream.trim_end_matches('s'))
}

/// The index up to which a position has come; none for `tail`.
pub fn index_of(position: &str) -> Option<usize> {
    position.strip_prefix("at/")?.split('~').next()?.parse().ok()
}

enum Answer {
    Page(Vec<u8>),
    Status(u16, Option<u64>),
    /// The connection breaks.
    Broken,
    /// Nothing comes.
    Silent,
    Slow(Duration, u16),
}

impl Vendor {
    fn page(&self, world: &World, source: Source, position: &str, limit: usize) -> Answer {
        let emitted = self.emitted(source);
        let asked = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        let from = index_of(position).unwrap_or(0);
        let (mut first, mut until) = (from, emitted.min(from + limit));
        let (mut moved, mut broken) = (String::new(), "");
        if world.befalls(world.weather().misbehaves) {
            world.count("vendor misbehaves");
            let what = world.dice().random_range(0..20);
            match what {
                0..=4 => first = from.saturating_sub(3),
                5..=8 => (until, moved) = (from, format!("~{asked}")),
                9..=10 => until = until.min(from + 1),
                11 => broken = r#"{"id":"bad","type":},"#,
                12..=13 => return Answer::Status(429, Some(1)),
                14..=15 => return Answer::Status(502, None),
                16..=17 => return Answer::Broken,
                18 => return Answer::Silent,
                // Nothing is lost in truth: the whole history comes again.
                _ if index_of(position).is_some() => return Answer::Status(410, None),
                _ => {}
            }
        }
        let top = until >= emitted && moved.is_empty();
        let items: Vec<String> = (first.min(until)..until).map(|at| item(source, at)).collect();
        let broken = if items.is_empty() { broken.trim_end_matches(',') } else { broken };
        let items = items.join(",");
        let page = format!(r#"{{"items":[{broken}{items}],"meta":{{"position":"at/{until}{moved}","top":{top}}}}}"#);
        Answer::Page(page.into_bytes())
    }
}

fn item(source: Source, at: usize) -> String {
    let (resource, record, id) = (source.1.trim_end_matches('s'), at % RECORDS, id(source, at));
    format!(
        r#"{{"data":{{"id":{record},"n":{at}}},"meta":{{"event_id":"{id}","event_type":"updated","event_time":"2024-02-14T10:30:00Z","sequence":{at},"type":"{resource}"}}}}"#
    )
}

/// What one process sees of both.
pub struct Servers {
    net: Net,
    vendor: Arc<Vendor>,
    oracle: Arc<Oracle>,
}

impl Servers {
    /// The way to them, for a process's HTTP clients.
    pub fn transport(net: &Net, vendor: &Arc<Vendor>, oracle: &Arc<Oracle>) -> Transport {
        static CLIENT: OnceLock<Client> = OnceLock::new();
        let client = CLIENT.get_or_init(|| standpipe::http::client_builder().build().unwrap());
        let servers = Self { net: net.clone(), vendor: vendor.clone(), oracle: oracle.clone() };
        Transport::Memory(client.clone(), Arc::new(servers))
    }
}

impl Server for Servers {
    fn answer(&self, request: Request) -> BoxFuture<'static, Result<Response, reqwest::Error>> {
        let (net, vendor, oracle) = (self.net.clone(), self.vendor.clone(), self.oracle.clone());
        Box::pin(async move {
            let limit = request.timeout().copied().unwrap_or(Duration::from_mins(1));
            let world = net.world.clone();
            let answered = if request.url().host_str().is_some_and(|host| host.ends_with("vendor.example")) {
                net.ask("polling", move || poll(&world, &vendor, &request)).await
            } else {
                net.ask("posting", move || receive(&world, &oracle, &request)).await
            };
            match answered {
                Ok(Answer::Page(body)) => Ok(response(200, None, body)),
                Ok(Answer::Status(status, retry_after)) => Ok(response(status, retry_after, b"so".to_vec())),
                Ok(Answer::Slow(wait, status)) => {
                    pause(wait).await;
                    Ok(response(status, None, Vec::new()))
                }
                Ok(Answer::Silent) => {
                    pause(limit).await;
                    Err(broken())
                }
                Ok(Answer::Broken) | Err(Lost) => Err(broken()),
            }
        })
    }
}

fn poll(world: &World, vendor: &Vendor, request: &Request) -> Answer {
    let url = request.url();
    let account = ACCOUNTS.into_iter().find(|account| url.host_str().is_some_and(|host| host.starts_with(account)));
    let stream = url.path_segments().and_then(|mut path| path.nth(1)).unwrap_or_default();
    let stream = STREAMS.into_iter().find(|known| *known == stream);
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    vendor.page(world, (account.unwrap(), stream.unwrap()), &query["position"], query["limit"].parse().unwrap())
}

/// Whether it takes the event is one thing, whether it says so another.
fn receive(world: &World, oracle: &Oracle, request: &Request) -> Answer {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    let id = header("webhook-id");
    let shard = Shard(header("standpipe-shard").parse().unwrap());
    let (seq, body) = (Seq(header("standpipe-seq").parse().unwrap()), request.body().unwrap().as_bytes().unwrap());
    let (takes, answer) = if world.befalls(world.weather().misbehaves) {
        world.count("receiver misbehaves");
        let what = world.dice().random_range(0..10);
        match what {
            0..=2 => (false, Answer::Status(500, None)),
            3 => (false, Answer::Status(503, None)),
            4 => (false, Answer::Status(429, Some(1))),
            5 => (false, Answer::Broken),
            6 => (true, Answer::Broken),
            7 => (true, Answer::Silent),
            8 => (true, Answer::Slow(Duration::from_secs(3), 200)),
            _ => (false, Answer::Silent),
        }
    } else {
        (true, Answer::Status(200, None))
    };
    if takes {
        oracle.received(&id, (shard, seq), body);
    }
    answer
}

fn response(status: u16, retry_after: Option<u64>, body: Vec<u8>) -> Response {
    let mut parts = Parts::builder().status(status);
    if let Some(seconds) = retry_after {
        parts = parts.header("retry-after", seconds);
    }
    parts.body(body).unwrap().into()
}

/// There is no other way to an error of the client.
fn broken() -> reqwest::Error {
    response(500, None, Vec::new()).error_for_status().unwrap_err()
}
