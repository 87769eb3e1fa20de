//! `standpipe webhook`: a signed ping, signatures by hand, new secrets. No secret is an argument: every user of the
//! machine can see those (INV-16).

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use uuid::Uuid;

use super::output::{Format, Table, line, printable};
use super::{Failure, Global};
use crate::clock::Clock;
use crate::config::{Secret, SinkKind, WebhookConfig};
use crate::event::SinkName;
use crate::sink::webhook::{
    Endpoint, Guard, Keys, Message, Sender, TOLERANCE_SECONDS, Texts, Verdict, Verifying, id_of, new_secret,
    new_signing_key,
};

/// More of a file than this is no webhook's body.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// `standpipe webhook`
#[derive(Clone, Debug, Subcommand)]
pub enum Options {
    /// Send a signed ping to a sink's endpoint and show its answer
    Test(Test),
    /// Print the headers that sign a body
    Sign(Sign),
    /// Check the signature of a body that was received
    Verify(Verify),
    /// Make a new secret and say how to change over to it without a pause
    Rotate(Rotate),
}

/// `standpipe webhook test`
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// The sink
    #[arg(value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: SinkName,
    #[command(flatten)]
    format: Format,
}

/// Where secrets come from.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct KeyFiles {
    /// Use the secrets of this sink
    #[arg(long, value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)), conflicts_with_all = ["secret_file", "signing_key_file"])]
    sink: Option<SinkName>,
    /// File with a `whsec_…` secret; repeat it for several
    #[arg(long, value_name = "FILE")]
    secret_file: Vec<PathBuf>,
    /// File with an ed25519 `whsk_…` key
    #[arg(long, value_name = "FILE")]
    signing_key_file: Option<PathBuf>,
}

/// `standpipe webhook sign`
#[derive(Clone, Debug, Args)]
pub struct Sign {
    #[command(flatten)]
    keys: KeyFiles,
    /// The `webhook-id`
    #[arg(long)]
    id: String,
    /// The `webhook-timestamp`, seconds since 1970 [default: now]
    #[arg(long)]
    timestamp: Option<i64>,
    /// The body; `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    body: PathBuf,
}

/// `standpipe webhook verify`
#[derive(Clone, Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    keys: VerifyingFiles,
    /// The `webhook-id` header
    #[arg(long)]
    id: String,
    /// The `webhook-timestamp` header
    #[arg(long)]
    timestamp: String,
    /// The `webhook-signature` header
    #[arg(long)]
    signature: String,
    /// Take a timestamp of any age; a receiver should not
    #[arg(long)]
    any_age: bool,
    /// The body; `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    body: PathBuf,
}

/// What checks a signature.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct VerifyingFiles {
    /// Any key of this sink
    #[arg(long, value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: Option<SinkName>,
    /// File with a `whsec_…` secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with an ed25519 `whpk_…` key
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
}

/// `standpipe webhook rotate`
#[derive(Clone, Debug, Args)]
pub struct Rotate {
    /// File to write; never overwritten
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Make an ed25519 key (`whsk_…`) instead of a shared secret, and print its public key
    #[arg(long)]
    ed25519: bool,
    /// Name the sink in the steps that follow
    #[arg(long, value_parser = |name: &str| Ok::<_, String>(SinkName::from(name)))]
    sink: Option<SinkName>,
}

/// Runs the verb.
pub async fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    match options {
        Options::Test(options) => test(global, options).await,
        Options::Sign(options) => sign(global, options),
        Options::Verify(options) => verify(global, options),
        Options::Rotate(options) => rotate(options),
    }
}

fn webhook_of(global: &Global, sink: &SinkName) -> Result<WebhookConfig, Failure> {
    let config = super::load(global)?.loaded.config;
    match config.sinks.get(sink).map(|sink| &sink.kind) {
        Some(SinkKind::Webhook(webhook)) => Ok(webhook.clone()),
        Some(SinkKind::Kafka(_)) => Err(Failure::configuration(format!("the sink {sink} is no webhook"))),
        None => Err(Failure::configuration(format!("no sink {sink} is configured"))),
    }
}

/// What the endpoint answered to a ping.
#[derive(Serialize)]
struct Pinged {
    id: String,
    delivered: bool,
    status: Option<u16>,
    took_ms: u128,
    error: String,
    answer: String,
}

async fn test(global: &Global, options: &Test) -> Result<(), Failure> {
    let config = webhook_of(global, &options.sink)?;
    let clock = Clock::system();
    let guard = Guard::new(config.allow_http, &config.allow_networks);
    let texts = Texts::read(&config).map_err(Failure::configuration)?;
    let endpoint = Endpoint::new(&texts, &guard).map_err(Failure::configuration)?;
    let mut sender = Sender::new(&config, &guard, clock.clone()).map_err(Failure::environment)?;
    let event_id = format!("ping-{}", Uuid::new_v4());
    let message = Message::ping(&id_of("standpipe", &event_id), ping(&event_id, &clock));
    let id = message.id().to_owned();
    let answer = sender.attempt(&endpoint, message).await;
    let pinged = Pinged {
        id,
        delivered: answer.verdict == Verdict::Delivered,
        status: answer.status,
        took_ms: answer.took.as_millis(),
        answer: String::from_utf8_lossy(&answer.body).into_owned(),
        error: answer.error,
    };
    options.format.print(&pinged, |pinged| {
        let mut table = Table::new(&["ID", "STATUS", "MS", "ERROR", "ANSWER"], "");
        table.row([
            pinged.id.clone(),
            pinged.status.map_or_else(|| "none".to_owned(), |status| status.to_string()),
            pinged.took_ms.to_string(),
            pinged.error.clone(),
            pinged.answer.clone(),
        ]);
        table
    })?;
    // It has been told.
    if pinged.delivered { Ok(()) } else { Err(Failure::told(1)) }
}

/// An event in the canonical form (sell-api.md section 0) that no account emits.
fn ping(event_id: &str, clock: &Clock) -> Bytes {
    let at = clock.now().replace_nanosecond(0).unwrap_or_else(|_| clock.now());
    let at = at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    Bytes::from(format!(
        r#"{{"id":"{event_id}","type":"standpipe.ping","timestamp":"{at}","account":"standpipe","data":{{"ping":{{}}}}}}"#
    ))
}

fn sign(global: &Global, options: &Sign) -> Result<(), Failure> {
    let keys = match &options.keys.sink {
        Some(sink) => keys_of(&webhook_of(global, sink)?)?,
        None => keys_in(&options.keys.secret_file, options.keys.signing_key_file.as_deref())?,
    };
    header_safe("--id", &options.id)?;
    let body = read_body(&options.body)?;
    let timestamp = options.timestamp.unwrap_or_else(|| Clock::system().now().unix_timestamp()).to_string();
    let signature = keys.sign(&options.id, &timestamp, &body);
    line(&format!("webhook-id: {}\nwebhook-timestamp: {timestamp}\nwebhook-signature: {signature}", options.id))
}

fn verify(global: &Global, options: &Verify) -> Result<(), Failure> {
    let verifying = match (&options.keys.sink, &options.keys.secret_file, &options.keys.public_key_file) {
        (Some(sink), ..) => Verifying::Keys(Box::new(keys_of(&webhook_of(global, sink)?)?)),
        (_, Some(file), _) => Verifying::Keys(Box::new(keys_in(std::slice::from_ref(file), None)?)),
        (_, _, Some(file)) => Verifying::public(read_key(file)?.expose_secret()).map_err(Failure::configuration)?,
        (None, None, None) => return Err(Failure::configuration("name a key")),
    };
    let body = read_body(&options.body)?;
    let at: i64 = options
        .timestamp
        .trim()
        .parse()
        .map_err(|_| Failure::runtime("the timestamp is no number of seconds since 1970"))?;
    if !verifying.verify(&options.id, options.timestamp.trim(), &body, &options.signature) {
        return Err(Failure::runtime("no signature is right: another key, or another id, timestamp or body"));
    }
    let age = Clock::system().now().unix_timestamp().saturating_sub(at);
    if !options.any_age && age.abs() > TOLERANCE_SECONDS {
        return Err(Failure::runtime(format!(
            "the signature is right, but {age} s old; a receiver takes {TOLERANCE_SECONDS} s at most (--any-age)"
        )));
    }
    line("the signature is right")
}

fn rotate(options: &Rotate) -> Result<(), Failure> {
    let (secret, public) = if options.ed25519 {
        let (key, public) = new_signing_key();
        (key, Some(public))
    } else {
        (new_secret(), None)
    };
    write_new(&options.file, &secret)?;
    let file = printable(&options.file.display().to_string());
    let sink = options.sink.as_ref().map_or("NAME", SinkName::as_str);
    line(&match public {
        None => format!(
            "Wrote a new secret to {file}.\n\n\
             To change over without a pause:\n\
             1. Sign with both: in [sinks.{sink}] replace secret_file by\n   \
                secret_files = [\"{file}\", \"<the old file>\"], and reload.\n\
             2. Give the new secret to the receiver; until it has it, it verifies by the old signature.\n\
             3. Take the old file out of secret_files, and reload.\n\
             Check each step with `standpipe webhook test {sink}`."
        ),
        Some(public) => format!(
            "Wrote a new ed25519 key to {file}.\n\n\
             Public key for the receiver: {public}\n\n\
             1. Give the public key to the receiver, beside the one that it has.\n\
             2. In [sinks.{sink}] set signing_key_file = \"{file}\", and reload.\n\
             3. Let the receiver drop the old public key.\n\
             Check each step with `standpipe webhook test {sink}`."
        ),
    })
}

/// Readable by its owner alone from the first byte on.
fn write_new(path: &Path, secret: &SecretString) -> Result<(), Failure> {
    let refused = |error: std::io::Error| {
        let why = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "it exists, and rotate overwrites nothing".to_owned()
        } else {
            error.to_string()
        };
        Failure::environment(format!("cannot write {}: {why}", path.display()))
    };
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(refused)?;
    writeln!(file, "{}", secret.expose_secret()).and_then(|()| file.sync_all()).map_err(refused)
}

fn keys_of(config: &WebhookConfig) -> Result<Keys, Failure> {
    let secrets = config.secrets.iter().map(Secret::read).collect::<Result<Vec<_>, _>>();
    let signing_key = config.signing_key.as_ref().map(Secret::read).transpose();
    Keys::new(&secrets.map_err(Failure::configuration)?, signing_key.map_err(Failure::configuration)?.as_ref())
        .map_err(Failure::configuration)
}

fn keys_in(secrets: &[PathBuf], signing_key: Option<&Path>) -> Result<Keys, Failure> {
    let secrets = secrets.iter().map(|file| read_key(file)).collect::<Result<Vec<_>, _>>()?;
    let signing_key = signing_key.map(read_key).transpose()?;
    Keys::new(&secrets, signing_key.as_ref()).map_err(Failure::configuration)
}

fn read_key(file: &Path) -> Result<SecretString, Failure> {
    Secret::file(file.to_owned()).read().map_err(Failure::configuration)
}

/// What cannot stand in a header would sign something that can never be sent.
fn header_safe(flag: &str, text: &str) -> Result<(), Failure> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Failure::configuration(format!("{flag}: a webhook-id is printable ASCII without spaces")))
}

fn read_body(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::environment(format!("cannot read {}: {error}", path.display()));
    let mut body = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_BODY_BYTES + 1).read_to_end(&mut body).map_err(unreadable)?;
    } else {
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_BODY_BYTES + 1).read_to_end(&mut body).map_err(unreadable)?;
    }
    if body.len() as u64 > MAX_BODY_BYTES {
        return Err(Failure::runtime(format!("{} is larger than 64 MiB", path.display())));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_is_readable_by_its_owner_alone_and_overwrites_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("whsec");
        write_new(&path, &new_secret()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(write_new(&path, &new_secret()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        assert!(keys_in(&[path], None).is_ok());
    }

    #[test]
    fn a_ping_is_a_canonical_event() {
        let body = ping("ping-1", &Clock::manual(time::macros::datetime!(2026-01-02 03:04:05.678 UTC)));
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event["type"], "standpipe.ping");
        assert_eq!(event["timestamp"], "2026-01-02T03:04:05Z");
    }
}
