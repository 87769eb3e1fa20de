//! Spans that belong to the trace of an event: the one that its `traceparent` names to whoever receives it.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Whether spans go to a collector.
static SENT: AtomicBool = AtomicBool::new(false);

pub(super) fn set_sent(sent: bool) {
    SENT.store(sent, Ordering::Relaxed);
}

/// A span in an event's trace, as a child of the span that its `traceparent` names. Where no collector is configured it
/// is not even made, at the price of one load: nobody else looks at it.
pub fn of_event(traceparent: &str, span: impl FnOnce() -> tracing::Span) -> tracing::Span {
    if !SENT.load(Ordering::Relaxed) {
        return tracing::Span::none();
    }
    let span = span();
    if let Some(context) = context(traceparent) {
        // Refused only where the span has begun already or is filtered out: it stays as it is.
        drop(span.set_parent(opentelemetry::Context::new().with_remote_span_context(context)));
    }
    span
}

fn context(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    Some(SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_joins_the_trace_that_receivers_see() {
        let context = context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id().to_string(), "b7ad6b7169203331");
        assert!(context.is_remote() && context.is_sampled());
    }
}
