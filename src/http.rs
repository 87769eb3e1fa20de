//! How every HTTP client of the program begins.

/// A client that follows no redirect, uses no proxy from the environment, speaks TLS by rustls with ring, verified
/// by the machine's own roots, and names itself `standpipe/<version>`.
///
/// A token or a signed body goes to the origin that it was meant for and to no other (sell-api.md, "Behaviour that
/// follows"; design.md section 6).
pub fn client_builder() -> reqwest::ClientBuilder {
    // The first caller installs the provider for the process; that it is there already is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .user_agent(concat!("standpipe/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}
