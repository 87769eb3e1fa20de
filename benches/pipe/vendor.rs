//! A Sell that costs next to nothing: it answers polls from memory, in the reference dialect, or (empty pages alone) in
//! the live one. Its answers are cheap so that what is measured is the pipe.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::events::Pages;

/// What it has to tell.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Streams, named `s0`, `s1`, ….
    pub streams: u64,
    /// Events of each stream.
    pub events: u64,
    /// After so many events of a stream the same ones come again.
    pub distinct: u64,
    /// So many events at a time, so often; else all there are, at once.
    pub pace: Option<(u64, Duration)>,
}

impl Story {
    /// `events` of one stream, as fast as they are taken.
    pub const fn flood(events: u64) -> Self {
        Self { streams: 1, events, distinct: events, pace: None }
    }
}

struct State {
    story: Story,
    pages: Pages,
    began: OnceCell<Instant>,
    /// When each event was answered, in nanoseconds since `epoch`; for paced stories.
    answered: Vec<AtomicU64>,
    epoch: Instant,
    /// The highest position that was asked for, over all streams together.
    asked: watch::Sender<u64>,
    polls: AtomicU64,
    lookups: AtomicU64,
}

/// A running vendor; ends when dropped.
pub struct Vendor {
    port: u16,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Vendor {
    /// `epoch` is what times are counted from.
    pub async fn start(story: Story, epoch: Instant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let kept = if story.pace.is_some() { story.streams * story.events } else { 0 };
        let state = Arc::new(State {
            story,
            pages: Pages::new(),
            began: OnceCell::new(),
            answered: (0..kept).map(|_| AtomicU64::new(0)).collect(),
            epoch,
            asked: watch::Sender::new(0),
            polls: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn(async move { serve(stream, &state).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, state, _tasks: tasks }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// When an event was answered, in nanoseconds since the epoch.
    pub fn answered(&self, number: u64) -> u64 {
        self.state.answered[usize::try_from(number).expect("a count")].load(Ordering::Relaxed)
    }

    /// Polls that were answered until now.
    pub fn polls(&self) -> u64 {
        self.state.polls.load(Ordering::Relaxed)
    }

    /// Lookups that were answered until now.
    pub fn lookups(&self) -> u64 {
        self.state.lookups.load(Ordering::Relaxed)
    }

    /// Waits until a position was asked for: what is before it is recorded, but for the pages on their way.
    pub async fn asked(&self, position: u64) {
        self.state.asked.subscribe().wait_for(|asked| *asked >= position).await.expect("kept by us");
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut request, mut answer, mut body) = (Vec::with_capacity(4096), Vec::new(), Vec::new());
    loop {
        let end = loop {
            if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut request).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        let length = header(&head, "content-length").unwrap_or(0);
        while request.len() < end + length {
            if stream.read_buf(&mut request).await.ok()? == 0 {
                return None;
            }
        }
        let sent = String::from_utf8_lossy(&request[end..end + length]).into_owned();
        request.drain(..end + length);
        body.clear();
        let line = head.lines().next()?;
        let status = state.answer(line, &sent, &mut body).await;
        answer.clear();
        answer.extend_from_slice(
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())
                .as_bytes(),
        );
        answer.extend_from_slice(&body);
        stream.write_all(&answer).await.ok()?;
    }
}

fn header(head: &str, name: &str) -> Option<usize> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    value.trim().parse().ok()
}

/// Of the size of a contact of the simulator.
fn contact(id: &str) -> String {
    format!(r#"{{"id":{id},"name":"Contact {id}","first_name":"Contact","last_name":"{id}","is_organization":false,"#)
        + &format!(r#""email":"contact-{id}@example.com","phone":"+44 20 7946 0999","mobile":null,"website":null,"#)
        + r#""organization_id":1000042,"owner_id":42,"creator_id":42,"title":"Head of purchasing","industry":"#
        + r#""Manufacturing","address":{"line1":"12 Harbour Street","city":"Bristol","postal_code":"BS1 5DB","#
        + r#""state":null,"country":"GB"},"tags":["partner","newsletter"],"custom_fields":{"segment":"mid-market"},"#
        + r#""created_at":"2025-11-02T08:15:00Z","updated_at":"2026-01-04T16:45:10Z"}"#
}

impl State {
    async fn answer(&self, line: &str, sent: &str, body: &mut Vec<u8>) -> &'static str {
        let target = line.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let position = parameter("position").and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit = parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(100);
        let wait = Duration::from_secs(parameter("wait").and_then(|text| text.parse().ok()).unwrap_or(0));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match parts[..] {
            ["v3", "firehose"] => {
                let listed = |n| format!(r#"{{"id":"s{n}","name":"s{n}","event_types":["s{n}.updated"]}}"#);
                let streams: Vec<String> = (0..self.story.streams).map(listed).collect();
                body.extend_from_slice(format!(r#"{{"items":[{}],"meta":{{}}}}"#, streams.join(",")).as_bytes());
                "200 OK"
            }
            ["v3", "firehose", "subscribe"] => {
                let stream = sent.split("\"s").nth(1).and_then(|rest| rest.split('.').next()).unwrap_or("0");
                let answer = format!(r#"{{"stream_id":"s{stream}","event_types":[],"position":"{:013}"}}"#, 0);
                body.extend_from_slice(answer.as_bytes());
                "201 Created"
            }
            ["v3", "contacts", id] => {
                self.lookups.fetch_add(1, Ordering::Relaxed);
                body.extend_from_slice(contact(id).as_bytes());
                "200 OK"
            }
            ["v3", "firehose", name] | ["v3", name, "stream"] => {
                let stream = name.strip_prefix('s').and_then(|number| number.parse().ok()).unwrap_or(0);
                self.page(stream, position, limit, wait, body).await;
                "200 OK"
            }
            _ => "404 Not Found",
        }
    }

    async fn page(&self, stream: u64, from: u64, limit: u64, wait: Duration, body: &mut Vec<u8>) {
        let Story { streams, events, distinct, pace } = self.story;
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.asked.send_if_modified(|asked| {
            // A stream that is ahead speaks for all.
            let ahead = from * streams > *asked;
            *asked = (*asked).max(from * streams);
            ahead
        });
        let mut to = (from + limit).min(events);
        if from >= events {
            tokio::time::sleep(wait).await;
            to = from;
        } else if let Some((count, every)) = pace {
            let began = *self.began.get_or_init(|| async { Instant::now() }).await;
            let due = began + every * u32::try_from(from / count).expect("a short story");
            tokio::time::sleep_until(due).await;
            let told = u64::try_from(began.elapsed().as_nanos() / every.as_nanos()).expect("a short story") + 1;
            to = to.min(told * count);
        }
        let first = stream * events;
        let top = to >= events || pace.is_some();
        self.pages.write((from..to).map(|at| first + at % distinct), to, top, body);
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).expect("centuries");
        for at in (from..to).take_while(|_| !self.answered.is_empty()) {
            self.answered[usize::try_from(first + at).expect("a count")].store(now, Ordering::Relaxed);
        }
    }
}
