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

/// Ranges of slots, as a server says.
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
        // Servers list ranges in different orders.
        masters.sort();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(host: &str, port: i64) -> Value {
        let host = match host {
            "null" => Value::Nil,
            host => Value::BulkString(host.as_bytes().to_vec()),
        };
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn range(first: i64, last: i64, servers: Vec<Value>) -> Value {
        let mut range = vec![Value::Int(first), Value::Int(last)];
        range.extend(servers);
        Value::Array(range)
    }

    fn from() -> Address {
        ("asked".to_owned(), 7_000)
    }

    fn topology(answer: Vec<Value>) -> Topology<Address> {
        Topology::new(Ranges::read(&Value::Array(answer), &from()).unwrap(), Clone::clone)
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        // CRC-16/XMODEM's check value, and keys with hash tags.
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
        assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"), "empty braces are no tag");
        assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
        assert_eq!(slot_of("foo{bar}{zap}"), slot_of("bar"));
    }

    #[test]
    fn a_server_whose_host_is_left_out_is_the_one_that_was_asked() {
        let servers = vec![server("null", 7_001), server("", 7_002), server("?", 7_003)];
        let ranges = Value::Array(vec![range(0, 16_383, servers)]);
        let ranges = Ranges::read(&ranges, &from()).unwrap();
        assert_eq!(ranges.masters, [(0, 16_383, ("asked".to_owned(), 7_001))]);
        assert_eq!(ranges.replicas, [("asked".to_owned(), 7_002)]);
        assert_eq!(redirected(":7005", &from()), Some(("asked".to_owned(), 7_005)));
        assert_eq!(redirected("[::1]:7005", &from()), Some(("::1".to_owned(), 7_005)));
        assert_eq!(redirected("h:x", &from()), None);
    }

    #[test]
    fn slots_move_and_the_version_tells() {
        let answer = || {
            vec![
                range(0, 99, vec![server("a", 1), server("c", 3)]),
                range(200, 16_383, vec![server("b", 2)]),
            ]
        };
        let before = topology(answer());
        assert_eq!(before.version(), topology(answer()).version(), "the same on all nodes");
        assert_eq!(before.uncovered(), Some(100));
        let new = ("d".to_owned(), 4);
        let after = before.moved(150, |known| *known == new, &new);
        assert_eq!((after.owner(150), before.owner(150)), (Some(&new), None));
        assert_eq!(after.owner(99).unwrap().0, "a");
        assert_eq!(after.owner(200).unwrap().0, "b");
        assert_ne!(after.version(), before.version());
        let back = after.moved(150, |known| known.0 == "a", &("a".to_owned(), 1));
        assert_eq!((back.owner(150).unwrap().0.as_str(), back.masters().len()), ("a", 3));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            (0..20_000_i64).prop_map(Value::Int),
            Just(Value::Nil),
            ".{0,12}".prop_map(|text| Value::BulkString(text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..6).prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(3, 40, 6, |inner| {
            proptest::collection::vec(inner, 0..6).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn whatever_a_server_answers_each_slot_has_an_owner_of_a_range_or_none(answer in any_value()) {
            let Some(ranges) = Ranges::read(&answer, &from()) else { return Ok(()) };
            let given: Vec<_> = ranges.masters.clone();
            let topology = Topology::new(ranges, Clone::clone);
            for slot in [0, 1, 99, 16_383_u16] {
                let last = given.iter().rfind(|(first, last, _)| (*first..=*last).contains(&slot));
                prop_assert_eq!(topology.owner(slot), last.map(|(_, _, address)| address));
            }
            prop_assert_eq!(topology.owner(16_384), None);
        }

        #[test]
        fn an_account_is_in_one_slot_with_all_its_keys(
            user in "[a-z0-9-]{1,40}", month in "20[0-9]{2}-(0[1-9]|1[0-2])",
        ) {
            let record = format!("tc:{{user:{user}}}");
            for key in [format!("{record}:{month}"), format!("{record}:{month}:l"), format!("{record}:tokens")] {
                prop_assert_eq!(slot_of(&key), slot_of(&record));
            }
            prop_assert_eq!(slot_of(&record), slot_of(&format!("user:{user}")));
        }
    }
}
