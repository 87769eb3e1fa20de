//! Logs and traces of the process. Lines go to stderr, one for each event, with times in UTC: text on a terminal,
//! JSON elsewhere; stdout belongs to what a verb prints. Traces go to a collector where one is configured.
//!
//! No secret gets here: secrets are of types that do not print (INV-16).

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::json::JsonLines;
use super::{otlp, trace};
use crate::config::{LogFormat, TelemetryConfig};

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be understood.
    #[error("the log filter cannot be understood")]
    Filter {
        /// What the parser said.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is installed already.
    #[error("logs are set up already")]
    Installed,
    /// Traces cannot be sent.
    #[error("traces cannot be sent")]
    Otlp {
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The logs and traces of the process, once installed.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    traces: Option<SdkTracerProvider>,
}

impl Logging {
    /// Installs logs and traces for the process, once. With `otlp_endpoint` it needs a running tokio runtime.
    pub fn install(config: &TelemetryConfig, deployment: &str) -> Result<Self, LoggingError> {
        let terminal = std::io::stderr().is_terminal();
        let json = match config.log_format {
            LogFormat::Auto => !terminal,
            LogFormat::Json => true,
            LogFormat::Text => false,
        };
        let ansi = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (filter, handle) = reload::Layer::new(parse(&config.log)?);
        let traces =
            config.otlp_endpoint.as_deref().map(|endpoint| otlp::provider(endpoint, deployment)).transpose()?;
        let spans =
            traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("standpipe")));
        tracing_subscriber::registry()
            .with(filter)
            .with(lines(json, ansi, std::io::stderr))
            .with(spans)
            .try_init()
            .map_err(|_| LoggingError::Installed)?;
        trace::set_sent(traces.is_some());
        Ok(Self { filter: handle, traces })
    }

    /// Logs of a verb that is not `run`: text on stderr.
    pub fn install_plain(filter: &str) -> Result<Self, LoggingError> {
        let config = TelemetryConfig { log: filter.to_owned(), log_format: LogFormat::Text, otlp_endpoint: None };
        Self::install(&config, "")
    }

    /// Logs of a verb that draws on the terminal: text in a file.
    pub fn install_into(filter: &str, file: std::fs::File) -> Result<Self, LoggingError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let lines = lines(false, false, std::sync::Arc::new(file));
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| LoggingError::Installed)?;
        Ok(Self { filter: handle, traces: None })
    }

    /// Replaces the filter while the program runs.
    pub fn set_filter(&self, filter: &str) -> Result<(), LoggingError> {
        self.filter.reload(parse(filter)?).map_err(|_| LoggingError::Installed)
    }

    /// Sends the spans that wait, for at most `limit`.
    pub async fn shutdown(self, limit: Duration) {
        let Some(traces) = self.traces else { return };
        trace::set_sent(false);
        let sent = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(limit));
        match tokio::time::timeout(limit, sent).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(error = %super::causes(&error), "the last traces were not sent"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last traces were not sent in time"),
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(filter).map_err(|source| LoggingError::Filter { source })
}

/// Writes events as lines: JSON with the event's fields at the top, or text.
fn lines<S, W>(json: bool, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Complaints about a closed stderr would go to stderr, and panic.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi).log_internal_errors(false);
    if json { layer.json().event_format(JsonLines).boxed() } else { layer.boxed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Secret};
    use crate::telemetry::captured::Captured;

    fn logged(json: bool, work: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber =
            tracing_subscriber::registry()
                .with(parse("trace").unwrap())
                .with(lines(json, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, work);
        captured.text()
    }

    #[test]
    fn json_is_one_line_an_event_with_utc_time_fields_and_spans() {
        let out = logged(true, || {
            let _span = tracing::info_span!("page", account = "acme", stream = "deals").entered();
            tracing::warn!(attempt = 3, text = "two\nlines \u{1b}[31m", "the source\ndid not answer");
        });
        assert_eq!(out.lines().count(), 1, "{out}");
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["attempt"], 3);
        assert_eq!(line["message"], "the source\ndid not answer");
        assert_eq!(line["spans"][0]["stream"], "deals");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{out}");
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_no_field_hides_what_is_ours() {
        #[derive(Debug, thiserror::Error)]
        #[error("the page was not recorded")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("the disk is full"));
        let out = logged(true, || {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                level = "mine",
                seconds = 1.5,
                "outside of a span"
            );
        });
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(line["error"], "the page was not recorded: the disk is full");
        assert_eq!((&line["level"], &line["level_"]), (&"ERROR".into(), &"mine".into()));
        assert_eq!(line["seconds"], 1.5);
        assert!(line.get("spans").is_none());
        let out = logged(false, || tracing::error!(error = &error as &dyn std::error::Error, "no"));
        assert!(out.contains("the disk is full"), "{out}");
    }

    #[test]
    fn a_secret_is_in_no_line_however_it_is_logged() {
        let canary = "CANARY";
        let text = format!(
            "deployment = \"x\"\n[ledger]\nurl = \"postgres://u:{canary}@h/d\"\n[accounts.a]\ntoken = \"{canary}\"\n\
             [sinks.k]\ntype = \"kafka\"\nbrokers = \"b:1\"\ntopic = \"t\"\nheaders.authorization = \"{canary}\"\n\
             properties.\"sasl.password\" = \"{canary}\"\n"
        );
        let loaded = config::parse("f.toml", &text).unwrap();
        let broken = config::parse("f.toml", &text.replace("token", "tokn").replace("postgres", "pg")).unwrap_err();
        for json in [true, false] {
            let out = logged(json, || {
                let secret = Secret::value(canary);
                tracing::info!(?secret, config = ?loaded.config, read = ?secret.read().unwrap(), "{secret:?}");
                tracing::error!(error = %crate::telemetry::causes(&broken), ?broken, "{broken}");
            });
            assert!(out.contains("acme") || out.contains("deployment"), "{out}");
            assert!(!out.contains(canary), "{out}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn spans_reach_the_collector_before_the_process_ends() {
        let collector = wiremock::MockServer::start().await;
        wiremock::Mock::given(wiremock::matchers::method("POST"))
            .and(wiremock::matchers::path("/v1/traces"))
            .respond_with(wiremock::ResponseTemplate::new(200))
            .mount(&collector)
            .await;
        let provider = otlp::provider(&collector.uri(), "test").unwrap();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("standpipe"));
        let subscriber = tracing_subscriber::registry().with(spans);
        tracing::subscriber::with_default(subscriber, || drop(tracing::info_span!("page").entered()));
        let filter = reload::Layer::new(parse("info").unwrap()).1;
        Logging { filter, traces: Some(provider) }.shutdown(Duration::from_secs(20)).await;
        let requests = collector.received_requests().await.unwrap();
        assert!(requests.iter().any(|request| request.body.windows(4).any(|bytes| bytes == b"page")));
    }
}
