//! What comes to a ledger from the side: an operator's orders, and retention.

use rand::RngExt as _;
use standpipe::event::ports::StreamState;
use standpipe::event::{Position, Seq, Shard};
use standpipe::ledger::model::{Model, State};

use crate::world::World;

/// Now and then something is paused, resumed, or sent back to where it began, and what every sink has is forgotten.
pub fn meddle(world: &World, ledger: &Model) {
    let mut state = ledger.look(Shard(0));
    let (streams, sinks) = (state.streams.len(), state.sinks.len());
    let (what, which) = {
        let mut dice = world.dice();
        (dice.random_range(0..10), dice.random_range(0..4_usize))
    };
    match what {
        0 => {
            for stream in state.streams.values_mut().skip(which % streams.max(1)).take(1) {
                world.tell(format!("an operator sends {} back", stream.row.key));
                stream.row.position = Position::tail();
            }
        }
        1 => {
            for stream in state.streams.values_mut().skip(which % streams.max(1)).take(1) {
                world.tell(format!("an operator pauses or resumes {}", stream.row.key));
                let paused = stream.row.state == StreamState::Paused;
                stream.row.state = if paused { StreamState::Active } else { StreamState::Paused };
            }
        }
        2 => {
            for (name, sink) in state.sinks.iter_mut().skip(which % sinks.max(1)).take(1) {
                world.tell(format!("an operator pauses or resumes {name}"));
                sink.row.paused ^= true;
            }
        }
        3..=5 => expire(world, &mut state),
        _ => {}
    }
}

/// Retention: what every sink has taken, by what the ledger knows of it, and what no row holds, may go.
fn expire(world: &World, state: &mut State) {
    let taken = state.sinks.values().map(|sink| sink.row.cursor.unwrap_or(Seq::ZERO)).min().unwrap_or(Seq::ZERO);
    if state.sinks.len() == 2 && taken.next() > state.oldest {
        state.oldest = Seq(world.dice().random_range(state.oldest.0..=taken.0 + 1));
        world.tell(format!("the ledger keeps events from {} on", state.oldest));
    }
}

pub fn let_all_go_on(ledger: &Model) {
    let mut state = ledger.look(Shard(0));
    for stream in state.streams.values_mut().filter(|stream| stream.row.state == StreamState::Paused) {
        stream.row.state = StreamState::Active;
    }
    for sink in state.sinks.values_mut() {
        sink.row.paused = false;
    }
}
