//! The text of a configuration, part by part, as most tests want it: polls that follow each other quickly, a budget that
//! holds nothing up, webhooks on this machine.

/// What webhooks sign with.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A text that grows.
#[derive(Clone, Debug)]
pub struct Setup(String);

impl Setup {
    /// A deployment (its name also keeps tests apart in the shared Kafka) and its ledger.
    pub fn new(deployment: &str, database: &str) -> Self {
        Self(format!("deployment = \"{deployment}\"\n")).with(&format!("[ledger]\nurl = \"{database}\""))
    }

    /// More keys of the part that came last, or parts of one's own.
    pub fn with(mut self, lines: &str) -> Self {
        self.0.extend([lines, "\n"]);
        self
    }

    /// An account whose vendor takes any token.
    pub fn account(self, name: &str, base_url: &str) -> Self {
        self.with(&format!(
            "[accounts.{name}]\nbase_url = \"{base_url}\"\ntoken = \"0123456789\"\npoll_interval = \"200ms\"\n\
             requests_per_minute = 60000\nrequests_per_hour = 3600000"
        ))
    }

    /// A Kafka sink.
    pub fn kafka(self, sink: &str, brokers: &str, topic: &str) -> Self {
        self.with(&format!("[sinks.{sink}]\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\""))
    }

    /// A webhook sink that signs with [`SECRET`].
    pub fn webhook(self, sink: &str, url: &str) -> Self {
        self.with(&format!(
            "[sinks.{sink}]\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\nallow_http = true\n\
             allow_networks = [\"127.0.0.0/8\"]"
        ))
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}
