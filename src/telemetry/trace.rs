//! The trace of an event: one for each recorded event, the same at every attempt, after every restart, because it is
//! made of the event's place in the ledger's chain.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::event::Chain;

/// Whether spans go anywhere: the `sampled` flag of every `traceparent`.
static SAMPLED: AtomicBool = AtomicBool::new(false);

pub(super) fn set_sampled(sampled: bool) {
    SAMPLED.store(sampled, Ordering::Relaxed);
}

fn context(chain: &Chain) -> SpanContext {
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&chain.0[..16]);
    span.copy_from_slice(&chain.0[16..24]);
    // All zeroes are not allowed, and nothing else is wrong with them.
    trace[15] |= u8::from(trace == [0; 16]);
    span[7] |= u8::from(span == [0; 8]);
    let flags = if SAMPLED.load(Ordering::Relaxed) { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    SpanContext::new(TraceId::from_bytes(trace), SpanId::from_bytes(span), flags, true, TraceState::NONE)
}

/// The W3C `traceparent` of the event whose chain this is.
#[must_use]
pub fn traceparent(chain: &Chain) -> String {
    let context = context(chain);
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Makes a span part of the event's trace. Does nothing where spans go nowhere.
pub fn adopt(span: &tracing::Span, chain: &Chain) {
    if SAMPLED.load(Ordering::Relaxed) {
        // Refused only for a span that has begun with another parent or is filtered out: it stays as it is.
        drop(span.set_parent(opentelemetry::Context::new().with_remote_span_context(context(chain))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ContentHash, LedgerId, Seq};

    #[test]
    fn a_traceparent_is_the_same_at_every_attempt_and_another_for_every_event() {
        let start = Chain::start(LedgerId(uuid::Uuid::nil()));
        let first = start.link(Seq(1), "a", &ContentHash([0; 16]));
        assert_eq!(traceparent(&first), traceparent(&first));
        assert_ne!(traceparent(&first), traceparent(&start));
        let parts: Vec<String> = traceparent(&first).split('-').map(str::to_owned).collect();
        assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert!(parts[1].chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()));
        assert_eq!(traceparent(&Chain([0; 32])), "00-00000000000000000000000000000001-0000000000000001-00");
    }
}
