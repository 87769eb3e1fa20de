//! The HTTP client of the tests.

use std::sync::LazyLock;
use std::time::Duration;

static CLIENT: LazyLock<()> = LazyLock::new(|| {
    // A second provider, installed by code under test, is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
});

/// A client with a deadline on every request. One for each test: a connection belongs to its test's runtime.
pub fn client() -> reqwest::Client {
    LazyLock::force(&CLIENT);
    reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().expect("a client")
}

/// The status and body of a GET; none when nobody answers.
pub async fn get(url: &str) -> Option<(u16, String)> {
    let response = client().get(url).send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}
