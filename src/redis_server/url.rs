//! URLs of one server, of a cluster, and of a master that Sentinels watch.

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::fault::Fault;

/// Location that a URL names.
#[derive(Debug)]
pub(super) enum Location {
    One(Box<ConnectionInfo>),
    /// Nodes of a cluster.
    Cluster(Vec<ConnectionInfo>),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
        /// The login of the master, and the database; its address is not known yet.
        server: Box<ConnectionInfo>,
    },
}

/// Forms of a URL, for errors.
const ONE: &str = "`redis://[user:password@]host[:port][/database]`, `rediss://...` for TLS, or \
    `unix:///path/to/socket`";
const CLUSTER: &str = "`redis+cluster://[user:password@]host[:port],host[:port].../`, or \
    `rediss+cluster://...` for TLS";
const SENTINEL: &str = "`redis+sentinel://[user:password@]host[:port],host[:port].../master\
    [/database]`, or `rediss+sentinel://...` for TLS";

/// The port of a sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26_379;

/// Reads a URL. Errors do not show it: it may have a password.
pub(super) fn read(url: &str) -> Result<Location, Fault> {
    let url = url.trim();
    let unfit = |what: &str| unfit(what, ONE);
    if url.is_empty() {
        return Err(unfit("is empty"));
    }
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let (base, kind) = scheme.rsplit_once('+').unwrap_or((&scheme, ""));
    let tls = matches!(base, "rediss" | "valkeys");
    if tls && cfg!(not(feature = "tls")) {
        let remedy = "enable the feature `tls` of tower-credits, or write `redis` for `rediss`";
        return Err(Fault::Unfit(format!("the Redis URL asks for TLS: {remedy}")));
    }
    let rest = url.split_once("://").map(|(_, rest)| rest);
    match (base, kind, rest) {
        ("redis" | "valkey" | "rediss" | "valkeys", "cluster", Some(rest)) => cluster(tls, rest),
        ("redis" | "valkey" | "rediss" | "valkeys", "sentinel", Some(rest)) => sentinel(tls, rest),
        ("redis" | "valkey" | "rediss" | "valkeys" | "unix", "", _)
        | ("redis" | "valkey", "unix", _) => {
            one(url).map(|info| Location::One(Box::new(info))).map_err(|error| unfit(&error))
        }
        (_, _, Some(_)) => Err(unfit("has a scheme that is not supported")),
        (_, _, None) => Err(unfit("has no scheme")),
    }
}

fn unfit(what: &str, forms: &str) -> Fault {
    Fault::Unfit(format!("the Redis URL {what}: write {forms}"))
}

fn one(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|error| format!("cannot be read ({error})"))
}

/// The parts of `[user:password@]host[:port],host[:port].../path[?query]`.
struct List<'a> {
    /// With its `@`, or empty.
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> List<'a> {
    fn read(rest: &'a str) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let at = authority.rfind('@').map_or(0, |at| at + 1);
        let (login, hosts) = authority.split_at(at);
        let hosts: Vec<_> = hosts.split(',').map(str::trim).collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err("names no host, or has a comma too many".to_owned());
        }
        Ok(Self { login, hosts, path: path.trim_end_matches('/'), query })
    }

    /// Reads each host as a server of its own.
    fn servers(
        &self,
        tls: bool,
        login: &str,
        default_port: u16,
        database: &str,
    ) -> Result<Vec<ConnectionInfo>, String> {
        let scheme = if tls { "rediss" } else { "redis" };
        let server = |host: &&str| {
            // The colons of an IPv6 address are in brackets.
            let has_port = host.rsplit(']').next().is_some_and(|after| after.contains(':'));
            let port = if has_port { String::new() } else { format!(":{default_port}") };
            one(&format!("{scheme}://{login}{host}{port}/{database}"))
        };
        self.hosts.iter().map(server).collect()
    }
}

fn cluster(tls: bool, rest: &str) -> Result<Location, Fault> {
    let unfit = |what: String| unfit(&what, CLUSTER);
    let list = List::read(rest).map_err(unfit)?;
    if !list.path.is_empty() {
        return Err(unfit("names a database, which a cluster does not have".to_owned()));
    }
    if !list.query.is_empty() {
        return Err(unfit("has a query".to_owned()));
    }
    let nodes = list.servers(tls, list.login, 6_379, "").map_err(unfit)?;
    Ok(Location::Cluster(nodes))
}

fn sentinel(tls: bool, rest: &str) -> Result<Location, Fault> {
    let unfit = |what: String| unfit(&what, SENTINEL);
    let list = List::read(rest).map_err(unfit)?;
    let (master, database) = list.path.split_once('/').unwrap_or((list.path, ""));
    if master.is_empty() {
        return Err(unfit("does not name the master after the sentinels".to_owned()));
    }
    let mut login = ("", "");
    for pair in list.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", user)) => login.0 = user,
            Some(("sentinel_pass", password)) => login.1 = password,
            _ => {
                let known = "has a query with something else than `sentinel_user` and \
                             `sentinel_pass`";
                return Err(unfit(known.to_owned()));
            }
        }
    }
    let sentinel_login = match login {
        ("", "") => String::new(),
        (user, password) => format!("{user}:{password}@"),
    };
    let sentinels = list.servers(tls, &sentinel_login, SENTINEL_PORT, "").map_err(unfit)?;
    let server = list.servers(tls, list.login, 6_379, database).map_err(unfit)?.swap_remove(0);
    let name = percent_encoding::percent_decode_str(master).decode_utf8();
    let name = name.map_err(|_| unfit("has a master's name that is not UTF-8".to_owned()))?;
    Ok(Location::Sentinel { sentinels, master: name.into_owned(), server: Box::new(server) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(servers: &[ConnectionInfo]) -> Vec<String> {
        servers.iter().map(|server| server.addr().to_string()).collect()
    }

    #[test]
    fn a_clusters_nodes_have_the_urls_login_and_their_own_ports() {
        let read = read("redis+cluster://credits:p%40ss@a,b:7001,[::1],[::1]:7003/").unwrap();
        let Location::Cluster(nodes) = read else { panic!("{read:?}") };
        assert_eq!(shown(&nodes), ["a:6379", "b:7001", "::1:6379", "::1:7003"]);
        for node in nodes {
            let login = node.redis_settings();
            assert_eq!((login.username(), login.password()), (Some("credits"), Some("p@ss")));
        }
    }

    #[test]
    fn the_sentinels_and_their_master_have_logins_of_their_own() {
        let url = "redis+sentinel://:secret@a,b:7001/my%20master/3?sentinel_user=s&sentinel_pass=x";
        let read = read(url).unwrap();
        let Location::Sentinel { sentinels, master, server } = read else { panic!("{read:?}") };
        assert_eq!(
            (shown(&sentinels), &*master),
            (vec!["a:26379".into(), "b:7001".into()], "my master")
        );
        let login = server.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (None, Some("secret"), 3));
        let login = sentinels[1].redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("s"), Some("x"), 0));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_form_to_write() {
        for (url, what, form) in [
            ("redis+cluster://a,,b/", "a comma too many", "redis+cluster://"),
            ("redis+cluster:///", "names no host", "redis+cluster://"),
            ("redis+cluster://a/3", "names a database", "redis+cluster://"),
            ("redis+cluster://a:x/", "cannot be read", "redis+cluster://"),
            ("redis+sentinel://a,b/", "does not name the master", "redis+sentinel://"),
            ("redis+sentinel://a/m/first", "cannot be read", "redis+sentinel://"),
            ("redis+sentinel://a/m?password=s3cret", "something else than", "redis+sentinel://"),
            ("redis+proxy://a/", "a scheme that is not supported", "`redis://"),
            ("unix+cluster://a/", "a scheme that is not supported", "`redis://"),
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(form), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
