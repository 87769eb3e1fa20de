use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use super::output::line;
use super::{Failure, Global};

/// `standpipe init`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// File to write; never overwritten
    #[arg(long, short, default_value = "standpipe.toml", value_name = "FILE")]
    output: PathBuf,
    /// Names transactional ids and topics; two deployments never share one
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// A name of your choice for the Sell account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// File that holds the account's API token
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// `postgres://` URL without a password, or "embedded"
    #[arg(long, value_name = "URL")]
    ledger: Option<String>,
    /// Kafka brokers, `host:port,host:port`; none for no Kafka sink
    #[arg(long, value_name = "BROKERS")]
    brokers: Option<String>,
    /// Where a webhook sink posts to; none for no webhook sink
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

/// Writes a first configuration, asking on a terminal for what the options leave open, and proves that it loads.
pub fn run(_global: &Global, options: &Options) -> Result<(), Failure> {
    let mut asking = Asking { terminal: io::stdin().is_terminal() && io::stdout().is_terminal() };
    let answers = Answers {
        deployment: asking.ask("Name of this deployment", options.deployment.as_deref(), "standpipe")?,
        account: asking.ask("Name for the Sell account", options.account.as_deref(), "sell")?,
        token_file: asking.ask(
            "File with the account's API token",
            options.token_file.as_deref(),
            "/etc/standpipe/secrets/sell-token",
        )?,
        ledger: asking.ask(
            "PostgreSQL of the ledger (postgres://… or embedded)",
            options.ledger.as_deref(),
            "postgres://standpipe@127.0.0.1/standpipe",
        )?,
        brokers: asking.ask("Kafka brokers (empty for none)", options.brokers.as_deref(), "")?,
        webhook: asking.ask("Webhook URL (empty for none)", options.webhook.as_deref(), "")?,
    };
    if reqwest::Url::parse(&answers.ledger).is_ok_and(|url| url.password().is_some()) {
        return Err(Failure::configuration(
            "the ledger's URL has a password, which an argument and this file would show: leave it out here, write the \
             whole URL into a file of its own, and name that file by ledger.url_file in the place of ledger.url",
        ));
    }
    // Line by line the same file, but with secrets that nobody has made yet.
    crate::config::parse(&options.output.display().to_string(), &answers.to_toml(Secrets::Stand))
        .map_err(Failure::configuration)?;
    let text = answers.to_toml(Secrets::InFiles);
    let refused = |source: io::Error| {
        let why = if source.kind() == io::ErrorKind::AlreadyExists {
            "it exists, and init overwrites nothing; name another with --output".to_owned()
        } else {
            source.to_string()
        };
        Failure::environment(format!("cannot write {}: {why}", options.output.display()))
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&options.output).map_err(refused)?;
    file.write_all(text.as_bytes()).map_err(refused)?;
    line(&format!(
        "Wrote {file}.\n\nNext:\n  put the secrets into the files that it names\n  standpipe check --config {file}\n  standpipe run --config {file}",
        file = options.output.display()
    ))
}

struct Asking {
    terminal: bool,
}

impl Asking {
    fn ask(&mut self, question: &str, given: Option<&str>, default: &str) -> Result<String, Failure> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        if !self.terminal {
            return Ok(default.to_owned());
        }
        let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        let mut out = io::stdout().lock();
        write!(out, "{question}{shown}: ").and_then(|()| out.flush()).map_err(Failure::runtime)?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(Failure::runtime)?;
        let answer = answer.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    }
}

/// How a written configuration gets its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secrets {
    /// From the files that it names.
    InFiles,
    /// By stand-ins, for a look at the rest.
    Stand,
}

impl Secrets {
    fn key<'a>(self, name: &'a str, file: &'a str, named: &'a str) -> (&'a str, &'a str) {
        match self {
            Self::InFiles => (named, file),
            Self::Stand => (name, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
        }
    }
}

struct Answers {
    deployment: String,
    account: String,
    token_file: String,
    ledger: String,
    brokers: String,
    webhook: String,
}

impl Answers {
    fn to_toml(&self, secrets: Secrets) -> String {
        let mut text = String::from(
            "# standpipe's configuration. `standpipe config reference` explains every key;\n\
             # `standpipe check` proves this file and everything that it points to.\n\n",
        );
        let quoted = |value: &str| toml_edit::Value::from(value).to_string().trim().to_owned();
        let mut section = |head: &str, keys: &[(&str, &str)]| {
            text.push_str(head);
            for (key, value) in keys {
                text.extend([key, " = ", &quoted(value), "\n"]);
            }
            text.push('\n');
        };
        section("", &[("deployment", &self.deployment)]);
        section("[ledger]\n", &[("url", &self.ledger)]);
        let token = secrets.key("token", &self.token_file, "token_file");
        section(&format!("[accounts.{}]\n", toml_edit::Key::new(&self.account)), &[token]);
        if !self.brokers.is_empty() {
            section(
                "[sinks.kafka]\n",
                &[("type", "kafka"), ("brokers", &self.brokers), ("topic", "sell.{{ resource }}")],
            );
        }
        if !self.webhook.is_empty() {
            let secret = secrets.key("secret", "/etc/standpipe/secrets/webhook-whsec", "secret_file");
            section(
                "# `standpipe webhook rotate --file FILE` makes the secret.\n[sinks.webhook]\n",
                &[("type", "webhook"), ("url", &self.webhook), secret],
            );
        }
        text.trim_end().to_owned() + "\n"
    }
}
