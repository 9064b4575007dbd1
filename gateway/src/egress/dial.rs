//! Connections to hosts that a stranger chose. Every one begins here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::places::Turn;
use super::{Egress, EgressError, Host};

/// An open connection.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Ends with the connection.
    pub(super) turn: Turn,
}

/// Connects to the first address that may be dialled and answers: IPv6, then IPv4.
pub(super) async fn connect(egress: &Egress, host: &Host, port: u16) -> Result<Connection, EgressError> {
    let addresses: Vec<IpAddr> = match host {
        Host::Ip(address) => vec![*address],
        Host::Dns(name) => egress.node.dns.addresses(name).await?,
    };
    let mut failure = EgressError::Dns("the name has no address".to_owned());
    for address in addresses {
        match dial(egress, SocketAddr::new(address, port)).await {
            Ok(connection) => return Ok(connection),
            Err(why) => failure = why,
        }
    }
    Err(failure)
}

/// Every address is judged right here, and what is dialled is what was judged.
async fn dial(egress: &Egress, target: SocketAddr) -> Result<Connection, EgressError> {
    let refused = |why| EgressError::RefusedAddress { address: target.ip(), why };
    egress.policy.judge(target).map_err(refused)?;
    let turn = egress.node.addresses.take(target.ip()).await;
    let limit = Duration::from_secs(egress.node.settings.connect_timeout_s);
    let lost = |why: std::io::Error| EgressError::Connection(format!("no connection to {target}: {}", why.kind()));
    let stream = timeout(limit, TcpStream::connect(target))
        .await
        .map_err(|_| EgressError::Timeout("connecting"))?
        .map_err(lost)?;
    let (local, peer) = (stream.local_addr().map_err(lost)?, stream.peer_addr().map_err(lost)?);
    egress.policy.judge_connection(local, peer).map_err(refused)?;
    Ok(Connection { stream, address: target, turn })
}
