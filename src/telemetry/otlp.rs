use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::runtime::Handle;

use super::logging::LoggingError;

/// One request to the collector may take this long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Spans that wait to be sent, at most; further ones are dropped, and the program goes on (INV-11).
const QUEUE: usize = 4096;
/// Of a collector's answer, read at most.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Sends from the SDK's own thread by the program's HTTP client, which lives on the runtime.
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let http = self.http.clone();
        // The caller awaits the task, which ends with the client's own timeout.
        let sent = self.runtime.spawn(async move {
            let mut answer = http.execute(request.try_into()?).await?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                let room = MAX_ANSWER_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == MAX_ANSWER_BYTES {
                    break;
                }
            }
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = answer.status();
            Ok::<_, reqwest::Error>(response)
        });
        Box::pin(async move { Ok(sent.await??) })
    }
}

/// A provider that sends spans to `endpoint` (OTLP over HTTP, protobuf). Needs a running tokio runtime.
pub(super) fn provider(endpoint: &str, deployment: &str) -> Result<SdkTracerProvider, LoggingError> {
    let http = crate::http::client_builder()
        .timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| LoggingError::Otlp { source: Box::new(source) })?;
    let runtime = Handle::try_current().map_err(|source| LoggingError::Otlp { source: Box::new(source) })?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client { http, runtime })
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .with_endpoint(traces_url(endpoint))
        .build()
        .map_err(|source| LoggingError::Otlp { source: Box::new(source) })?;
    let batch = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
    let resource = Resource::builder()
        .with_service_name("standpipe")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.namespace", deployment.to_owned()),
        ])
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
        .build())
}

/// A collector's origin takes traces under `/v1/traces`; a whole path is taken as it is.
fn traces_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let is_origin = endpoint.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
    if is_origin { format!("{endpoint}/v1/traces") } else { endpoint.to_owned() }
}
