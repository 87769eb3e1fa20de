//! Log lines as JSON: one object for each event, its fields at the top, errors with all their causes, and the spans
//! around it from the outermost in.

use std::error::Error;
use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::causes;

pub(super) struct JsonLines;

/// Names that are ours: a field of such a name gets an underscore behind it.
const OURS: [&str; 4] = ["timestamp", "level", "target", "spans"];

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut line = Line { text: String::with_capacity(256), result: Ok(()) };
        line.text.push('{');
        line.member("timestamp", &Value::from(time));
        line.member("level", &Value::from(metadata.level().as_str()));
        line.member("target", &Value::from(metadata.target()));
        event.record(&mut line);
        line.result?;
        let mut text = line.text;
        let mut opening = ",\"spans\":[";
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            text.push_str(opening);
            opening = ",";
            write!(text, "{{\"name\":{}", Value::from(span.name()))?;
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Some(members) = fields.fields.strip_prefix('{')
                && members != "}"
            {
                text.push(',');
                text.push_str(members);
            } else {
                text.push('}');
            }
        }
        text.push_str(if opening == "," { "]}" } else { "}" });
        writeln!(writer, "{text}")
    }
}

struct Line {
    text: String,
    result: fmt::Result,
}

impl Line {
    fn member(&mut self, name: &str, value: &Value) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        self.result = self.result.and(write!(self.text, "{}:{value}", Value::from(name)));
    }

    fn field(&mut self, field: &Field, value: &Value) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        if OURS.contains(&name) {
            self.member(&format!("{name}_"), value);
        } else {
            self.member(name, value);
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, &value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, &value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, &value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, &value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, &value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.field(field, &causes(value).into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, &format!("{value:?}").into());
    }
}
