//! Whether an endpoint could be reached, without sending it anything.

use std::net::SocketAddr;

use super::config::{Endpoint, Texts};
use super::error::CheckError;
use super::guard::Guard;
use crate::config::WebhookConfig;

/// What a look at an endpoint found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The host, without the rest of the URL.
    pub host: String,
    /// The address that answered.
    pub address: SocketAddr,
    /// The public key for receivers (`whpk_…`), where a signing key is set.
    pub public_key: Option<String>,
}

/// Reads the secrets, resolves the host through the guard, and connects; no request is made, because a receiver would
/// take it for an event.
pub async fn check(config: &WebhookConfig) -> Result<Checked, CheckError> {
    let guard = Guard::new(config.allow_http, &config.allow_networks);
    let endpoint = Endpoint::new(&Texts::read(config).map_err(super::EndpointError::from)?, &guard)?;
    if let Some(refused) = endpoint.refused() {
        return Err(refused.clone().into());
    }
    let host = endpoint.url().host_str().unwrap_or_default().to_owned();
    let unreachable = |why: String| CheckError::Unreachable { host: host.clone(), why };
    let port = endpoint.url().port_or_known_default().unwrap_or(443);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let look = async {
        let resolved = tokio::net::lookup_host((name, port)).await.map_err(|error| unreachable(error.to_string()))?;
        let mut why = "it has no address".to_owned();
        for address in guard.resolved(name, resolved.collect())? {
            match tokio::net::TcpStream::connect(address).await {
                Ok(_) => {
                    let public_key = endpoint.keys().public_key();
                    return Ok(Checked { host: host.clone(), address, public_key });
                }
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(unreachable(why))
    };
    tokio::time::timeout(config.connect_timeout, look)
        .await
        .unwrap_or_else(|_| Err(unreachable(format!("no connection within {:?}", config.connect_timeout))))
}
