//! The demo's directory, ports and configuration. The configuration is an ordinary file, so that every other verb of
//! the program can be tried on the running demo.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::embedded::FETCHED_DIRECTORY;

/// The account's name.
pub(super) const ACCOUNT: &str = "acme";
/// Partitions of the topics that the mock cluster is started with.
const PARTITIONS: u16 = 3;
/// Resources whose topics the mock cluster is started with, so that the first event of each need not wait; the sink
/// asks for others itself.
const RESOURCES: [&str; 5] = ["lead", "deal", "contact", "activity", "organization"];

/// A directory that is gone when this value is.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn make(name: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(name);
        // Others may pass through: the database's user has to.
        fs::DirBuilder::new().mode(0o711).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the state directory, in which programs that had to be fetched are shared with the next demo.
    pub(super) fn state_dir(&self) -> std::io::Result<PathBuf> {
        let state_dir = self.0.join("state");
        fs::create_dir(&state_dir)?;
        if let Some(cache) = cache_dir()
            && fs::create_dir_all(&cache).is_ok()
        {
            symlink(cache.join(FETCHED_DIRECTORY), state_dir.join(FETCHED_DIRECTORY))?;
        }
        Ok(state_dir)
    }

    /// Writes a file that only we can read.
    pub(super) fn write(&self, name: &str, text: &str) -> std::io::Result<PathBuf> {
        let path = self.file(name);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        Ok(path)
    }

    /// Removes it; at a drop what cannot be removed stays.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, directory = %self.0.display(), "the demo's directory is left behind");
        }
    }
}

/// Where what was fetched is kept: root's home is closed to the user that the database runs as.
fn cache_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/standpipe"));
    }
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?;
    Some(caches.join("standpipe"))
}

/// A free loopback address, at the wished port where that is free.
pub(super) fn address(wished: u16) -> std::io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    bind(wished).or_else(|_| bind(0))
}

/// What the configuration is made of.
#[derive(Debug)]
pub(super) struct Settings<'s> {
    pub(super) deployment: &'s str,
    pub(super) state_dir: &'s Path,
    pub(super) listen: SocketAddr,
    pub(super) metrics_listen: SocketAddr,
    pub(super) sell: String,
    pub(super) token_file: &'s Path,
    pub(super) brokers: &'s str,
    pub(super) topic_prefix: &'s str,
    pub(super) webhook: String,
    pub(super) secret_file: &'s Path,
}

impl Settings<'_> {
    pub(super) fn to_toml(&self) -> String {
        let mut text = String::from("# Written by `standpipe demo`; gone when it ends.\n");
        let quoted = |text: &dyn std::fmt::Display| toml_edit::Value::from(text.to_string()).to_string();
        let mut line = |key: &str, value: String| {
            writeln!(text, "{key} = {value}").expect("a string takes what is written to it");
        };
        line("deployment", quoted(&self.deployment));
        line("state_dir", quoted(&self.state_dir.display()));
        line("drain_timeout", quoted(&"5s"));
        line("ledger.url", quoted(&"embedded"));
        line("server.listen", quoted(&self.listen));
        line("server.metrics_listen", quoted(&self.metrics_listen));
        let account = format!("accounts.{ACCOUNT}");
        line(&format!("{account}.base_url"), quoted(&self.sell));
        line(&format!("{account}.token_file"), quoted(&self.token_file.display()));
        line(&format!("{account}.poll_interval"), quoted(&"1s"));
        // The simulator has no limits, and a person wants to see things move.
        line(&format!("{account}.requests_per_minute"), "6000".to_owned());
        line(&format!("{account}.requests_per_hour"), "360000".to_owned());
        line("sinks.topics.type", quoted(&"kafka"));
        line("sinks.topics.brokers", quoted(&self.brokers));
        line("sinks.topics.topic", quoted(&format!("{}{{{{ resource }}}}", self.topic_prefix)));
        line("sinks.deals.type", quoted(&"webhook"));
        line("sinks.deals.url", quoted(&self.webhook));
        line("sinks.deals.secret_file", quoted(&self.secret_file.display()));
        line("sinks.deals.filter", quoted(&"type.startsWith('deal.')"));
        line("sinks.deals.allow_http", "true".to_owned());
        line("sinks.deals.allow_networks", "[\"127.0.0.0/8\"]".to_owned());
        text
    }
}

/// Topics that the mock cluster must have from its start, because it knows no admin requests.
pub(super) fn mock_topics(deployment: &str, topic_prefix: &str) -> Vec<(String, u16)> {
    let mut topics: Vec<_> =
        RESOURCES.iter().map(|resource| (format!("{topic_prefix}{resource}"), PARTITIONS)).collect();
    topics.push((format!("standpipe.{deployment}.topics.cursor"), 1));
    topics.push((format!("standpipe.{deployment}.control"), 1));
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::rules;
    use crate::config::parse;

    #[test]
    fn the_demos_configuration_holds_and_its_rules_compile() {
        let place = Place::make(&format!("standpipe-demo-test-settings-{}", std::process::id())).unwrap();
        let token = place.write("token", "0123456789abcdef").unwrap();
        let secret = place.write("secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").unwrap();
        let settings = Settings {
            deployment: "demo",
            state_dir: Path::new("/tmp/a \"quoted\" place"),
            listen: address(0).unwrap(),
            metrics_listen: address(0).unwrap(),
            sell: "http://127.0.0.1:8088".to_owned(),
            token_file: &token,
            brokers: "127.0.0.1:9092",
            topic_prefix: "sell.",
            webhook: "http://127.0.0.1:9000/".to_owned(),
            secret_file: &secret,
        };
        let loaded = parse("demo.toml", &settings.to_toml()).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.config.state_dir, settings.state_dir);
        rules::compile(&loaded.config).unwrap_or_else(|errors| panic!("{errors}"));
    }

    #[test]
    fn the_directory_is_gone_with_its_value() {
        let place = Place::make(&format!("standpipe-demo-test-{}", std::process::id())).unwrap();
        let written = place.write("secret", "x").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&written).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        drop(place);
        assert!(!written.exists());
    }
}
