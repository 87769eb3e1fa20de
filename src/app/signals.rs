//! What the operating system and the service manager say to us, and we to them.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `stop` at the first SIGTERM or SIGINT. A second one ends the process at once, with 130 as a shell expects:
/// the ledger makes that safe.
pub async fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = either(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = name, "stopping");
    stop.cancel();
    let name = either(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "a second signal: ending at once");
    std::process::exit(130);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// SIGHUP asks for the configuration to be read again.
pub fn reload_requests() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Tells systemd, if it listens.
pub fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Feeds systemd's watchdog at half its interval while `live` says yes; does nothing where there is none.
pub async fn feed_watchdog(live: impl Fn() -> Result<(), String>, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => match live() {
                Ok(()) => notify(&NotifyState::Watchdog),
                Err(why) => tracing::error!(why, "not alive: the watchdog is not fed"),
            },
        }
    }
}
