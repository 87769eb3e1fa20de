//! The Firehose in both dialects, over one journal.

pub(super) mod live;
mod page;
pub(super) mod reference;

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use tokio::time::Instant;

use super::dice::Dice;
use super::shared::Shared;
use super::trouble::{Trouble, json_answer};
use super::world::milliseconds;
use page::{Ask, Page, Start};

/// The query of a poll.
type Query = HashMap<String, String>;

/// A number between bounds; `otherwise` where it is absent.
fn number(query: &Query, name: &'static str, bounds: (u64, u64), otherwise: u64) -> Result<u64, Trouble> {
    let Some(text) = query.get(name) else { return Ok(otherwise) };
    match text.parse() {
        Ok(number) if (bounds.0..=bounds.1).contains(&number) => Ok(number),
        _ => Err(Trouble::Parameter(name, "is not a number within its bounds")),
    }
}

/// `tail`, `top`, or a position that this simulator gave for `stream`.
fn start(shared: &Shared, text: &str, stream: u32) -> Result<Start, Trouble> {
    match text {
        "tail" => Ok(Start::Tail),
        "top" => Ok(Start::Top),
        text => super::position::Position::decode(text, shared.seed)
            .filter(|position| position.stream == stream)
            .map(Start::Held)
            .ok_or(Trouble::Parameter("position", "is not a position of this stream")),
    }
}

/// The page that answers `ask`, once there is something or `wait` is over.
async fn poll(shared: &Shared, ask: Ask, wait: Duration, dice: &mut Dice) -> Result<(Page, String), Trouble> {
    if !shared.traffic().may_flow(ask.reader, Instant::now()) {
        return Err(Trouble::OverLimit);
    }
    let mut until = Instant::now() + wait;
    let mut emitted = shared.emitted.subscribe();
    let mut from = ask;
    loop {
        emitted.borrow_and_update();
        let now = milliseconds(shared.clock.now());
        {
            let mut world = shared.world();
            // What comes while `top` waits is what it waits for.
            if let (Start::Top, Ok(position)) = (from.from, world.resolve(&from, now)) {
                from.from = Start::Held(position);
            }
            if wait.is_zero() || Instant::now() >= until || world.has_more(&from, now) {
                let page = world.page(&from, dice, now).map_err(|page::Gone| Trouble::Gone)?;
                let position = page.position.encode(shared.seed);
                return Ok((page, position));
            }
        }
        tokio::select! {
            // The sender is as long-lived as `shared`.
            _ = emitted.changed() => {}
            () = tokio::time::sleep_until(until) => {}
            () = shared.stop.cancelled() => until = Instant::now(),
        }
    }
}

/// A page as the vendor sends it; `meta` is what stands there beside position and top.
fn answer(shared: &Shared, ask: &Ask, page: &Page, position: &str, meta: &str) -> Response {
    let mut body = page::items(&page.pieces);
    let tail = format!(r#"{meta}"position":"{position}","top":{}}}}}"#, page.top);
    body.extend_from_slice(tail.as_bytes());
    shared.traffic().flowed("poll", ask.reader, body.len());
    json_answer(StatusCode::OK, body)
}
