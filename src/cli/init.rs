use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rand::RngExt as _;

use super::output::line;
use super::{Failure, Global, authorize};
use crate::config::{Auth, KEY_BYTES, Secret, read_key};
use crate::event::AccountName;

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
    /// The account's origin, where it is not the vendor's usual one
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// File that holds the account's API token
    #[arg(long, value_name = "FILE", conflicts_with = "oauth_client_id")]
    token_file: Option<String>,
    /// Authorize the account by OAuth 2.0, as the application with this id, instead of a token
    #[arg(long, value_name = "ID")]
    oauth_client_id: Option<String>,
    /// File that holds the application's secret
    #[arg(long, value_name = "FILE", requires = "oauth_client_id")]
    client_secret_file: Option<String>,
    /// File that the refresh token is written into
    #[arg(long, value_name = "FILE", requires = "oauth_client_id")]
    refresh_token_file: Option<String>,
    /// File with the key under which the ledger keeps the tokens; made where it is not there
    #[arg(long, value_name = "FILE", requires = "oauth_client_id")]
    key_file: Option<String>,
    #[command(flatten)]
    way: authorize::Way,
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

/// Writes a first configuration, asking on a terminal for what the options leave open, and proves that it loads. For OAuth 2.0 it
/// makes the key, and walks a person through the consent.
pub async fn run(_global: &Global, options: &Options) -> Result<(), Failure> {
    let mut asking = Asking { terminal: io::stdin().is_terminal() && io::stdout().is_terminal() };
    let answers = Answers {
        deployment: asking.ask("Name of this deployment", options.deployment.as_deref(), "standpipe")?,
        account: asking.ask("Name for the Sell account", options.account.as_deref(), "sell")?,
        base_url: options.base_url.clone(),
        credential: asking.credential(options)?,
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
    let loaded = crate::config::parse(&options.output.display().to_string(), &answers.to_toml(Secrets::Stand))
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
    drop(file);
    let file = options.output.display();
    line(&format!("Wrote {file}."))?;
    let mut next = "  put the secrets into the files that it names\n".to_owned();
    if let Credential::OAuth { client_id, client_secret_file, refresh_token_file, key_file } = &answers.credential {
        make_key(Path::new(key_file))?;
        let account = loaded.config.accounts.get(answers.account.as_str());
        if let Some(account) = account.filter(|_| Path::new(client_secret_file).exists()) {
            // The stand-ins make way for what the files hold.
            let mut account = account.clone();
            account.auth = Auth::OAuth {
                client_id: client_id.clone(),
                client_secret: Secret::file(client_secret_file.into()),
                refresh_token: Secret::file(refresh_token_file.into()),
                key: Secret::file(key_file.into()),
            };
            let name = AccountName::from(answers.account.as_str());
            authorize::walk(&name, &account, Path::new(refresh_token_file), &options.way).await?;
        } else {
            writeln!(next, "  standpipe accounts authorize {} --config {file}", answers.account)
                .map_err(Failure::runtime)?;
        }
    }
    line(&format!("\nNext:\n{next}  standpipe check --config {file}\n  standpipe run --config {file}"))
}

/// Makes the file with the key that the ledger keeps tokens under; one that is there stays.
fn make_key(path: &Path) -> Result<(), Failure> {
    let refused =
        |error: io::Error| Failure::environment(format!("cannot make the key file {}: {error}", path.display()));
    let mut file = match authorize::private(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(refused)?);
            return match read_key(&text) {
                Some(_) => Ok(()),
                None => Err(Failure::configuration(format!(
                    "{} is there and holds no key: 32 bytes in hex or base64, as `openssl rand -hex 32` makes them",
                    path.display()
                ))),
            };
        }
        opened => opened.map_err(refused)?,
    };
    let mut text = zeroize::Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
    for byte in zeroize::Zeroizing::new(rand::rng().random::<[u8; KEY_BYTES]>()).iter() {
        write!(text, "{byte:02x}").map_err(Failure::runtime)?;
    }
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(refused)?;
    line(&format!("Made the key file {}. Every replica needs it, and so does a backup of yours.", path.display()))
}

struct Asking {
    terminal: bool,
}

impl Asking {
    /// A token or OAuth 2.0.
    fn credential(&mut self, options: &Options) -> Result<Credential, Failure> {
        let by_oauth = match (&options.oauth_client_id, &options.token_file) {
            (Some(_), _) => true,
            (None, Some(_)) => false,
            (None, None) => loop {
                match self.ask("Authorize by an API token or by OAuth 2.0 (token or oauth)", None, "token")?.as_str() {
                    "token" => break false,
                    "oauth" => break true,
                    _ => {}
                }
            },
        };
        if !by_oauth {
            let default = "/etc/standpipe/secrets/sell-token";
            let file = self.ask("File with the account's API token", options.token_file.as_deref(), default)?;
            return Ok(Credential::Token { file });
        }
        Ok(Credential::OAuth {
            client_id: self.ask("Id of the OAuth application", options.oauth_client_id.as_deref(), "")?,
            client_secret_file: self.ask(
                "File with the application's secret",
                options.client_secret_file.as_deref(),
                "/etc/standpipe/secrets/sell-client-secret",
            )?,
            refresh_token_file: self.ask(
                "File to write the refresh token into",
                options.refresh_token_file.as_deref(),
                "/etc/standpipe/secrets/sell-refresh-token",
            )?,
            key_file: self.ask(
                "File with the key under which the ledger keeps tokens (made where it is not there)",
                options.key_file.as_deref(),
                "/etc/standpipe/secrets/sell-oauth-key",
            )?,
        })
    }

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
            Self::Stand if name == "key" => (name, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
            Self::Stand => (name, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
        }
    }
}

struct Answers {
    deployment: String,
    account: String,
    base_url: Option<String>,
    credential: Credential,
    ledger: String,
    brokers: String,
    webhook: String,
}

/// What the account is authorized by.
enum Credential {
    Token { file: String },
    OAuth { client_id: String, client_secret_file: String, refresh_token_file: String, key_file: String },
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
        let account = toml_edit::Key::new(&self.account).to_string();
        let mut keys: Vec<(&str, &str)> = self.base_url.iter().map(|url| ("base_url", url.as_str())).collect();
        match &self.credential {
            Credential::Token { file } => {
                keys.push(secrets.key("token", file, "token_file"));
                section(&format!("[accounts.{account}]\n"), &keys);
            }
            Credential::OAuth { client_id, client_secret_file, refresh_token_file, key_file } => {
                if !keys.is_empty() {
                    section(&format!("[accounts.{account}]\n"), &keys);
                }
                let keys = [
                    ("client_id", client_id.as_str()),
                    secrets.key("client_secret", client_secret_file, "client_secret_file"),
                    secrets.key("refresh_token", refresh_token_file, "refresh_token_file"),
                    secrets.key("key", key_file, "key_file"),
                ];
                let head = "# Its tokens stand in the ledger, under the key; `standpipe accounts authorize` renews the consent.\n";
                section(&format!("{head}[accounts.{account}.oauth]\n"), &keys);
            }
        }
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
