//! The company goes on living: events come at the asked rate.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::shared::Shared;

const TICK: Duration = Duration::from_millis(20);
/// A machine that slept does not catch up on more than this.
const LONGEST: f64 = 5.0;

/// Emits events until `shared.stop`.
pub(super) async fn live(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut rate = shared.rate.subscribe();
    let mut last = Instant::now();
    let mut due = 0.0;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        shared.tell();
        let now = Instant::now();
        due += *rate.borrow_and_update() * now.duration_since(last).as_secs_f64().min(LONGEST);
        last = now;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some events, not many")]
        let count = due as u64;
        if count == 0 {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "some events, not many")]
        let taken = count as f64;
        due -= taken;
        let burst = shared.world().burst(count);
        shared.emit(count + burst);
    }
}
