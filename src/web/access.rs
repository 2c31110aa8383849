//! Access control: who may watch, and who may control the run.

use super::Options;
use crate::error::{Error, Result};
use crate::hex::hex;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};
use rand::TryRng as _;
use rand::rngs::SysRng;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// Length of the token in bytes: 128 bits.
const TOKEN: usize = 16;

/// The server's address and token.
pub(super) struct Access {
    address: SocketAddr,
    token: String,
}

impl Access {
    /// Creates a token for the address of `listener`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system can't provide random numbers.
    pub fn new(listener: &TcpListener) -> Result<Self> {
        let place = Path::new("the live page");
        let address = listener.local_addr().map_err(Error::io(place, "getting its address"))?;
        let mut bytes = [0; TOKEN];
        SysRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| Error::io(place, "creating a token")(std::io::Error::other(error)))?;
        Ok(Self { address, token: hex(&bytes) })
    }

    /// Returns the URL of the page, with the token.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            // A server on all addresses has no single one to show.
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        format!("http://{}/#token={}", SocketAddr::new(host, self.address.port()), self.token)
    }

    /// Compares a token, in constant time.
    pub fn is_token(&self, token: &str) -> bool {
        self.token.as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// Checks that a request addresses this server by IP address or as `localhost`, and comes from this page or, unless
    /// `origin_needed`, from no page. Returns the value of the Host header.
    ///
    /// Other names are rejected, because a web site could point its own name at this machine (DNS rebinding), and the
    /// browser would treat the site and this server as one origin.
    ///
    /// # Errors
    /// A sentence with the reason.
    pub fn check<'a>(&self, headers: &'a HeaderMap, origin_needed: bool) -> Result<&'a str, String> {
        let host = single(headers, &HOST)?.ok_or("The request has no Host.")?;
        if !self.is_here(host) {
            return Err(format!(
                "This server is not called {host:?}. Use this machine's IP address instead of the name."
            ));
        }
        match single(headers, &ORIGIN)? {
            None if origin_needed => Err("The request has no Origin.".into()),
            Some(origin) if origin.strip_prefix("http://") != Some(host) => {
                Err(format!("Requests from {origin:?} are refused: only the page itself may send them."))
            }
            _ => Ok(host),
        }
    }

    /// Returns true if a Host header refers to this server. Any port is accepted, because a tunnel may use another one.
    fn is_here(&self, host: &str) -> bool {
        // Strict, because the host is copied to a header of the response.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if port.is_some_and(|port| {
            !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()
        }) {
            return false;
        }
        let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(v6) => v6.parse().map(IpAddr::V6),
            None => name.parse().map(IpAddr::V4),
        };
        let here = self.address.ip();
        let local = here.is_loopback() || here.is_unspecified();
        match address {
            Ok(ip) => ip == here || here.is_unspecified() || (local && ip.is_loopback()),
            Err(_) => local && name.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returns the value of a header that may occur at most once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str());
    match (value.transpose(), values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(format!("The request's {name} is malformed or occurs twice.")),
    }
}

/// Binds the address.
///
/// # Errors
/// [`Error::Usage`] with a remedy.
pub(super) fn bind(options: &Options) -> Result<TcpListener> {
    let address = SocketAddr::new(options.host, options.port);
    let failed = |error: std::io::Error| {
        let port = options.port;
        Error::usage(match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "--web: port {port} of {} is in use, perhaps by another run. Choose another one with --web PORT, or any free one with --web 0",
                options.host
            ),
            std::io::ErrorKind::PermissionDenied => format!(
                "--web: this user may not listen on port {port}. Choose one above 1023 with --web PORT, or any free one with --web 0"
            ),
            std::io::ErrorKind::AddrNotAvailable => format!(
                "--web: {} is not an address of this machine. Leave it out to listen on 127.0.0.1",
                options.host
            ),
            _ => format!("--web: can't listen on {address}: {error}. Try any free port with --web 0"),
        })
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(address: &str) -> Access {
        Access { address: address.parse().unwrap(), token: "00ff".into() }
    }

    #[test]
    fn only_own_host_names_are_accepted() {
        let local = access("127.0.0.1:8080");
        for host in
            ["127.0.0.1:8080", "localhost:8080", "LocalHost", "127.0.0.1", "[::1]:8080", "localhost:9000"]
        {
            assert!(local.is_here(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "a@localhost",
            "localhost.",
            "192.168.0.2:8080",
            "[::1",
            "0",
        ] {
            assert!(!local.is_here(host), "{host}");
        }
        let network = access("192.168.0.2:8080");
        assert!(network.is_here("192.168.0.2:8080"));
        for host in ["localhost:8080", "127.0.0.1:8080", "192.168.0.3:8080", "mybox"] {
            assert!(!network.is_here(host), "{host}");
        }
        let all = access("0.0.0.0:8080");
        for host in ["localhost:8080", "192.168.0.3:8080", "[fe80::1]:8080"] {
            assert!(all.is_here(host), "{host}");
        }
        assert!(!all.is_here("evil.example:8080"));
    }

    #[test]
    fn token_must_match_exactly() {
        let access = access("0.0.0.0:8080");
        assert!(access.is_token("00ff"));
        for token in ["", "00f", "00fff", "00fe", "00FF"] {
            assert!(!access.is_token(token), "{token}");
        }
        assert_eq!(access.url(), "http://127.0.0.1:8080/#token=00ff");
        assert!(!format!("{access:?}").contains("00ff"), "a log must not hold the token");
    }
}
