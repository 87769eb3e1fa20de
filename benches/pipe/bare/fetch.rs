//! Pages over one kept-alive connection.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use standpipe::event::{ContentHash, DedupeKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An event with what the tables want of it.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: Bytes,
    pub record: u64,
    pub key: DedupeKey,
    pub hash: ContentHash,
    pub body: Bytes,
}

#[derive(Debug)]
pub struct Page {
    pub from: String,
    pub to: String,
    pub events: Vec<Event>,
}

pub struct Fetcher {
    connection: TcpStream,
    position: String,
    limit: u64,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    position: String,
}

#[derive(Deserialize)]
struct Item<'a> {
    id: &'a str,
    r#type: &'a str,
    timestamp: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
    previous: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data {
    deal: Deal,
}

#[derive(Deserialize)]
struct Deal {
    id: u64,
}

impl Fetcher {
    pub async fn connect(port: u16, limit: u64) -> Self {
        let connection = TcpStream::connect(("127.0.0.1", port)).await.expect("the vendor listens");
        connection.set_nodelay(true).expect("a socket");
        Self { connection, position: "tail".to_owned(), limit }
    }

    /// The next page; the last one is waited for, for ever.
    pub async fn next(&mut self) -> Page {
        let request = format!(
            "GET /v3/firehose/s0?position={}&limit={}&wait=20 HTTP/1.1\r\nhost: vendor\r\n\r\n",
            self.position, self.limit
        );
        loop {
            self.connection.write_all(request.as_bytes()).await.expect("the vendor listens");
            let (events, to) = parse(&self.body().await);
            if !events.is_empty() {
                let from = std::mem::replace(&mut self.position, to.clone());
                return Page { from, to, events };
            }
        }
    }

    async fn body(&mut self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(1 << 16);
        let (head, length) = loop {
            self.connection.read_buf(&mut buffer).await.expect("the vendor answers");
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&buffer[..at]).expect("text");
                let (_, length) = head.split_once("content-length: ").expect("a length");
                break (at + 4, length.parse::<usize>().expect("a number"));
            }
        };
        let mut body = buffer.split_off(head);
        body.reserve(length.saturating_sub(body.len()));
        while body.len() < length {
            self.connection.read_buf(&mut body).await.expect("the vendor answers");
        }
        body.freeze()
    }
}

/// The events of a page, and where it leads.
pub fn parse(body: &Bytes) -> (Vec<Event>, String) {
    let answer: Answer<'_> = serde_json::from_slice(body).expect("a page");
    let events = answer.items.iter().map(|raw| {
        let item: Item<'_> = serde_json::from_str(raw.get()).expect("an element");
        let data: Data = serde_json::from_str(item.data.get()).expect("a record");
        let previous = item.previous.map_or("", RawValue::get);
        Event {
            id: body.slice_ref(item.id.as_bytes()),
            record: data.deal.id,
            key: DedupeKey::by_id("acme", item.id),
            hash: ContentHash::of(item.r#type, item.timestamp, item.data.get().as_bytes(), previous.as_bytes()),
            body: body.slice_ref(raw.get().as_bytes()),
        }
    });
    (events.collect(), answer.meta.position)
}
