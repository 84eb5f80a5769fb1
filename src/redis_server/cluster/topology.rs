//! Which server of a cluster has which slot. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crc::{CRC_16_XMODEM, Crc};
use redis::Value;

/// The number of slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// Host and port of a server.
pub(super) type Address = (String, u16);

/// The servers of a cluster, and the slots that they have.
pub(super) struct Topology<N> {
    /// For each slot, where its server is in `masters`.
    owners: Vec<Option<u16>>,
    masters: Vec<N>,
    /// Servers that can be asked for the topology.
    pub(super) replicas: Vec<Address>,
    /// Changes with the owner of any slot.
    version: u64,
}

/// What a server says of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    /// The first and the last slot of each range, and its master.
    pub(super) masters: Vec<(u16, u16, Address)>,
    pub(super) replicas: Vec<Address>,
}

/// Returns the slot of a key: of what is in the first braces, if that is something.
pub(super) fn slot_of(key: &str) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key);
    CRC.checksum(tag.as_bytes()) % SLOTS as u16
}

impl Ranges {
    /// Reads the answer to `CLUSTER SLOTS` of the server at `from`, whose host stands for one that
    /// the answer leaves out. `None` if it cannot be read.
    pub(super) fn read(answer: &Value, from: &Address) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let (mut masters, mut replicas) = (Vec::new(), Vec::new());
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), servers @ ..] = &range[..] else {
                return None;
            };
            let slot =
                |slot: i64| u16::try_from(slot).ok().filter(|slot| usize::from(*slot) < SLOTS);
            let (first, last) = (slot(*first)?, slot(*last)?);
            let mut servers = servers.iter().map(|server| address(server, from));
            // A master whose host is not known is not in the list, which leaves its slots without.
            if let Some(Some(master)) = servers.next() {
                masters.push((first, last, master));
            }
            replicas.extend(servers.flatten());
        }
        replicas.sort();
        replicas.dedup();
        Some(Self { masters, replicas })
    }
}

/// Reads a server's host and port. The host is null or empty for the server that was asked, and `?`
/// if nobody knows it.
fn address(server: &Value, from: &Address) -> Option<Address> {
    let Value::Array(server) = server else { return None };
    let [host, Value::Int(port), ..] = &server[..] else { return None };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0)?;
    let host = match host {
        Value::Nil => String::new(),
        host => redis::from_redis_value_ref(host).ok()?,
    };
    match &*host {
        "" => Some((from.0.clone(), port)),
        "?" => None,
        _ => Some((host, port)),
    }
}

/// Reads the address in `MOVED` and `ASK`: its host may be left out, too.
pub(super) fn redirected(text: &str, from: &Address) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { &from.0 } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

impl<N: Clone> Topology<N> {
    /// Makes a topology; `server` makes a server, once for each address.
    pub(super) fn new(ranges: Ranges, mut server: impl FnMut(&Address) -> N) -> Self {
        let (mut owners, mut masters) = (vec![None; SLOTS], Vec::new());
        let mut known = BTreeMap::new();
        for (first, last, address) in ranges.masters {
            let owner = *known.entry(address).or_insert_with_key(|address| {
                masters.push(server(address));
                masters.len() as u16 - 1
            });
            for slot in first..=last {
                owners[usize::from(slot)] = Some(owner);
            }
        }
        let version = version(&known, &owners);
        Self { owners, masters, replicas: ranges.replicas, version }
    }

    /// Returns the server that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&N> {
        let owner = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.masters.get(usize::from(owner))
    }

    /// Returns the topology after a slot has moved.
    pub(super) fn moved(&self, slot: u16, is_it: impl Fn(&N) -> bool, server: &N) -> Self {
        let (mut owners, mut masters) = (self.owners.clone(), self.masters.clone());
        let at = masters.iter().position(is_it).unwrap_or_else(|| {
            masters.push(server.clone());
            masters.len() - 1
        });
        owners[usize::from(slot)] = u16::try_from(at).ok();
        // Another one than all that servers say: a listing begins anew.
        let version = self.version.wrapping_mul(31).wrapping_add(u64::from(slot) + 1);
        Self { owners, masters, replicas: self.replicas.clone(), version }
    }

    /// Returns a slot that no server has.
    pub(super) fn uncovered(&self) -> Option<u16> {
        let slot = self.owners.iter().position(Option::is_none)?;
        u16::try_from(slot).ok()
    }

    pub(super) fn masters(&self) -> &[N] {
        &self.masters
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }
}

/// A number that is the same for the same owners of all slots, on all nodes.
fn version(known: &BTreeMap<Address, u16>, owners: &[Option<u16>]) -> u64 {
    let mut by_number: Vec<_> = known.iter().map(|(address, number)| (number, address)).collect();
    by_number.sort();
    let mut hash = Fnv::new();
    for (_, (host, port)) in by_number {
        hash.write(host.as_bytes());
        hash.write(&port.to_be_bytes());
    }
    for owner in owners {
        hash.write(&owner.unwrap_or(u16::MAX).to_be_bytes());
    }
    hash.0
}

/// FNV-1a: the same on all machines.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, mix);
    }
}

/// Topologies are shared, and replaced as a whole.
pub(super) type SharedTopology<N> = Arc<Topology<N>>;
